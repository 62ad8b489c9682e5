"""Placeholder tokens: where their embeddings start, how they are kept on disk, and which words they are near.

On disk, prompts are diffusers' textual-inversion files: `learned_embeds.safetensors` with one key, the
placeholder token, that holds `[n,D]`. diffusers' `load_textual_inversion` names the vectors `<gap>`,
`<gap>_1`, … `<gap>_{n-1}`; a prompt with `<gap>` then has all n, in order. AUTOMATIC1111's files and those
of the paper's authors are read too.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.weights.tensors import load_torch, open_safetensors

_HEADER = "gap_jax"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def save(
    path: str | Path,
    embeddings: np.ndarray,
    *,
    token: str = "<gap>",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write embeddings `[n,D]` to a `.safetensors` file that diffusers' `load_textual_inversion` reads.

    - `token`: the placeholder's name in diffusers' prompts.
    - `metadata`: what there is to say about the run; kept as JSON in the file's header, under `gap_jax`.

    The file is complete or not there: an existing one is replaced at the end. Raises ValueError for another
    suffix, another shape, NaN or infinity, an empty token; TypeError for metadata that is not JSON.
    """
    from safetensors.numpy import save as serialise

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: prompts are written as .safetensors, call it learned_embeds.safetensors")
    check_tokens([token])
    embeddings = _checked(np.asarray(embeddings, np.float32), "embeddings")
    header = {"format": "pt", _HEADER: json.dumps(dict(metadata or {}))}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(serialise({token: embeddings}, header))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def load(path: str | Path) -> np.ndarray:
    """The embeddings in a file, float32 `[n,D]`.

    Read are, as `.safetensors` or as torch pickle (`.bin`, `.pt`, `.pth`, `.ckpt`; by
    `torch.load(weights_only=True)`):

    - `{token: [n,D] or [D]}`: diffusers' textual inversion, `save`'s, AUTOMATIC1111's `emb_params`;
    - `{"string_to_param": {"*": [n,D]}, …}`: AUTOMATIC1111's pickles;
    - `{"<placeholder_token_0>": [D], "<placeholder_token_1>": [D], …}`: the paper's authors'
      `learned_embeds-{step}.bin`, stacked by index.

    Raises FileNotFoundError; ValueError for a file that is not readable or in none of these forms, and for
    NaN or infinity; ImportError for a pickle without torch.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        content = {name: tensor.read() for name, tensor in open_safetensors(path).items()}
    elif path.suffix in _PICKLES:
        content = load_torch(path)
    else:
        raise ValueError(f"{path}: prompts are read from .safetensors, {', '.join(_PICKLES)}")
    return _checked(np.atleast_2d(_embeddings(content, path)), str(path))


def load_metadata(path: str | Path) -> dict[str, Any]:
    """What `save` was given as `metadata`; empty for a file of someone else's. Raises as `load`."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    open_safetensors(path)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return json.loads((file.metadata() or {}).get(_HEADER, "{}"))


def check_tokens(names: Sequence[str]) -> None:
    """Raise ValueError for placeholder names that diffusers would confuse in one prompt.

    It replaces a name by `name name_1 … name_{n-1}` wherever it occurs, and is blind to case: so none may be
    empty, or part of another; `<gap>` and `<gap>_1` included.
    """
    for i, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"placeholder name {name!r} is empty")
        for other in [*names[:i], *names[i + 1 :]]:
            if name.lower() in other.lower():
                raise ValueError(
                    f"placeholder name {name!r} is contained in {other!r}, which diffusers would mistake for "
                    "it: use names like '<gap-a>' and '<gap-b>'"
                )


def from_word(pipe: Pipeline, params: Params, word: str, n: int) -> jax.Array:
    """The embedding of `word`, n times, float32 `[n,D]`.

    Raises ValueError unless the word is one token of the vocabulary, naming those that it is.
    """
    ids = _token_ids(pipe, word)
    if len(ids) != 1:
        found = ", ".join(repr(_text(pipe, i)) for i in ids) or "none"
        raise ValueError(f"{word!r} must be one token of the vocabulary, found {len(ids)}: {found}")
    return jnp.repeat(_vocabulary(params)[ids[0]][None], n, 0)


def random_words(pipe: Pipeline, params: Params, n: int, key: jax.Array) -> jax.Array:
    """The embeddings of n different words drawn from the vocabulary, float32 `[n,D]`.

    A word is a token of letters only that stands by itself, not a part of longer ones. On the host: `key`
    must be concrete. Raises ValueError if there are fewer than n.
    """
    table = _vocabulary(params)
    found = []
    for i in np.asarray(jax.random.permutation(key, len(table))).tolist():
        if len(found) == n:
            break
        text = _text(pipe, i)
        if text.isalpha() and _token_ids(pipe, text) == [i]:
            found.append(i)
    if len(found) < n:
        raise ValueError(f"the vocabulary has {len(found)} words, {n} were asked for")
    return table[jnp.array(found, int)]


def from_vocabulary(params: Params, n: int, key: jax.Array) -> jax.Array:
    """n draws of N(mean, covariance) of all of the vocabulary's embeddings, float32 `[n,D]`."""
    return from_distribution(_vocabulary(params), n, key)


def from_distribution(embeddings: jax.Array, n: int, key: jax.Array) -> jax.Array:
    """n draws of N(mean, covariance) of `embeddings` `[m,D]`, those of earlier runs; float32 `[n,D]`.

    The covariance is the sample's (divided by m-1), and may be singular: with m ≤ D it is, and draws
    stay in the space that the embeddings span around their mean. Raises ValueError for m < 2.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            f"embeddings must have shape [m, D] with m at least 2, found {list(embeddings.shape)}"
        )
    embeddings = jnp.asarray(embeddings, jnp.float32)
    mean, m = embeddings.mean(0), len(embeddings)
    # Rows of standard normals times the centred embeddings have their covariance: no root of it is needed.
    noise = jax.random.normal(key, (n, m)) / jnp.sqrt(m - 1.0)
    return mean + jnp.matmul(noise, embeddings - mean, precision="highest")


def nearest_words(
    pipe: Pipeline, params: Params, embeddings: np.ndarray, k: int = 3
) -> list[list[tuple[str, float]]]:
    """For each of `embeddings` `[n,D]`, the k nearest tokens' texts with their cosines, nearest first.

    Of tokens with the same text (`room` alone, and beginning a longer word), the nearer counts; those that
    are no text by themselves (part of a character) are left out.
    """
    table = _unit(np.asarray(_vocabulary(params)))
    cosines = _unit(_checked(np.asarray(embeddings, np.float32), "embeddings")) @ table.T
    return [_nearest(pipe, row, k) for row in cosines]


def _nearest(pipe: Pipeline, cosines: np.ndarray, k: int) -> list[tuple[str, float]]:
    words = {}
    for i in np.argsort(-cosines).tolist():
        if len(words) == k:
            break
        text = _text(pipe, i)
        if text and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text:
            words.setdefault(text, float(cosines[i]))
    return list(words.items())


def _embeddings(content: Any, path: Path) -> np.ndarray:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no embeddings by token, but a {type(content).__name__}")
    if "string_to_param" in content:
        content = content["string_to_param"]
    arrays = {name: _array(value, name, path) for name, value in content.items()}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    parts = {name: re.fullmatch(r"(.*?)(\d+)(\D*)", str(name)) for name in arrays}
    numbered = {int(found[2]): name for name, found in parts.items() if found}
    families = {(found[1], found[3]) if found else name for name, found in parts.items()}
    if len(families) > 1 or sorted(numbered) != list(range(len(arrays))):
        raise ValueError(
            f"{path} holds {', '.join(map(str, arrays))}: expected one token with all vectors, or tokens "
            "numbered from 0"
        )
    vectors = [arrays[numbered[i]] for i in range(len(arrays))]
    shapes = sorted({vector.shape for vector in vectors})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"{path}: each numbered token must hold [D], found {', '.join(map(str, shapes))}")
    return np.stack(vectors)


def _array(value: Any, name: str, path: Path) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().float().numpy()
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{path}: {name!r} is a {type(value).__name__}, expected a tensor")
    return value.astype(np.float32)


def _checked(embeddings: np.ndarray, what: str) -> np.ndarray:
    if embeddings.ndim != 2 or not embeddings.size:
        raise ValueError(f"{what} must have shape [n, D], found {list(embeddings.shape)}")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(bad):
        raise ValueError(f"{what}: NaN or infinity in vector {bad[0]}")
    return embeddings


def _vocabulary(params: Params) -> jax.Array:
    return params["text_encoder"]["embeddings.token_embedding"]["embedding"].astype(jnp.float32)


def _token_ids(pipe: Pipeline, text: str) -> list[int]:
    """The ids of a text alone, without start, end and padding."""
    end = pipe.tokenize([""])[0, 1]
    ids = pipe.tokenize([text])[0, 1:].tolist()
    return ids[: ids.index(end)]


def _text(pipe: Pipeline, token_id: int) -> str:
    return pipe.tokenizer.decode([token_id], pipe.text_encoder.vocab_size)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
