"""Embeddings of placeholder tokens: their start values, their files and their nearest words.

A prompt is the embeddings `[n,D]` of n placeholder tokens, D being the width of the text encoder. Its file is
a textual inversion of diffusers: `learned_embeds.safetensors` with one key, the name of the token, such as
`<gap>`. `load_textual_inversion` of diffusers names the n vectors `<gap>`, `<gap>_1`, … `<gap>_{n-1}` and
replaces `<gap>` in a text by all of them, in order. Files of AUTOMATIC1111 and of the paper's authors can be
read, too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.checks import expect_finite, expect_shape
from gap_jax.diffusion.pipeline import Params, Pipeline
from gap_jax.files import write_whole
from gap_jax.weights.identify import identify, kind_of
from gap_jax.weights.tensors import load_file, open_safetensors, to_array

_HEADER = "gap_jax"
_LONGEST = 75  # vectors that a text of 77 tokens has room for, between its start and its end
_PARAMETERS = ("weight", "bias", "kernel")  # the last words in the names of a model's parameters


def save(
    path: str | Path,
    embeddings: np.ndarray,
    *,
    token: str = "<gap>",
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write embeddings `[n,D]` to a file that diffusers' `load_textual_inversion` reads.

    - `path`: a `.safetensors` file; it is replaced atomically if it exists.
    - `embeddings`: finite numbers, written as float32.
    - `token`: name of the placeholder in diffusers' prompts.
    - `metadata`: JSON values that describe the run; kept in the file's header, under `gap_jax`.

    Raises ValueError for another suffix, another shape, NaN or infinity, or an empty token; TypeError for
    metadata that is not JSON; OSError if the file cannot be written, with the old one intact.
    """
    from safetensors.numpy import save as serialise

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} must be a .safetensors file: name it learned_embeds.safetensors, for example"
        )
    check_tokens([token])
    embeddings = _expect_embeddings("embeddings", np.asarray(embeddings, np.float32))
    header = {_HEADER: json.dumps(dict(metadata or {}))}  # safetensors writes several keys in any order
    write_whole(path, serialise({token: embeddings}, header))


def load(path: str | Path) -> np.ndarray:
    """Return the embeddings in a file, float32 `[n,D]`.

    The file is a `.safetensors` file or a torch pickle (`.bin`, `.pt`, `.pth`, `.ckpt`), which is read by
    `torch.load(weights_only=True)` and so cannot run code. It holds one of:

    - `{token: [n,D] or [D]}`: files of `save`, diffusers' textual inversions, AUTOMATIC1111's `emb_params`;
    - `{"string_to_param": {"*": [n,D]}, …}`: AUTOMATIC1111's pickles;
    - `{"<placeholder_token_0>": [D], "<placeholder_token_1>": [D], …}`: `learned_embeds-{step}.bin` of the
      paper's authors; the vectors are stacked by their index.

    Raises FileNotFoundError; ValueError for a file that is not readable, has none of these forms, names its
    vectors like the parameters of a model, has more vectors than a text has room for, or holds NaN or
    infinity; ImportError for a pickle if torch is not installed.
    """
    path = Path(path)
    content = load_file(path, "prompt file")
    embeddings = np.atleast_2d(_stacked(content, path))
    if len(embeddings) > _LONGEST:
        raise ValueError(
            f"{path} must hold a prompt of at most {_LONGEST} vectors, the length of a text, found "
            f"{len(embeddings)}: it is another table, such as a vocabulary or a layer of a model"
        )
    return _expect_embeddings(f"the embeddings in {path}", embeddings)


def load_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata that `save` wrote into a file; empty for a file of another program.

    Raises FileNotFoundError; ValueError for a `.safetensors` file that is not readable.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path}")
    if path.suffix != ".safetensors":
        return {}
    open_safetensors(path)  # raises a readable error
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        text = (file.metadata() or {}).get(_HEADER, "{}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata in {path} is not JSON: {error}. Copy the file again") from error


def check_tokens(names: Sequence[str]) -> None:
    """Raise ValueError for names of placeholders that diffusers would confuse in one text.

    diffusers replaces a name by `name name_1 … name_{n-1}` wherever it occurs, and ignores case. Therefore no
    name may be empty or contained in another, as `<gap>` is in `<gap>_1`.
    """
    for i, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"placeholder name {name!r} is empty: use a name like '<gap>'")
        for other in [*names[:i], *names[i + 1 :]]:
            if name.lower() in other.lower():
                raise ValueError(
                    f"placeholder name {name!r} is contained in {other!r}, where diffusers would replace it: "
                    "use names like '<gap-a>' and '<gap-b>'"
                )


def vocabulary(params: Params) -> jax.Array:
    """Return the embeddings of all tokens of a pipeline's text encoder, float32 `[tokens,D]`."""
    return params["text_encoder"]["embeddings.token_embedding"]["embedding"].astype(jnp.float32)


def from_word(pipe: Pipeline, params: Params, word: str, n: int) -> jax.Array:
    """Return the embedding of `word`, repeated n times, float32 `[n,D]`.

    Raises the error of `word_id`.
    """
    return jnp.repeat(vocabulary(params)[word_id(pipe, word)][None], n, 0)


def word_id(pipe: Pipeline, word: str) -> int:
    """Return the id of a word's token.

    Raises ValueError unless the word is a single token of the vocabulary; the message names its tokens.
    """
    ids = _token_ids(pipe, word)
    if len(ids) != 1:
        tokens = ", ".join(repr(_text(pipe, i)) for i in ids) or "none"
        raise ValueError(f"{word!r} must be a single token of the vocabulary, found {len(ids)}: {tokens}")
    return ids[0]


def from_random_words(pipe: Pipeline, params: Params, n: int, key: jax.Array) -> jax.Array:
    """Return the embeddings of n different random tokens of the vocabulary, float32 `[n,D]`."""
    ids = jax.random.choice(key, pipe.text_encoder.vocab_size, (n,), replace=False)
    return vocabulary(params)[ids]


def from_vocabulary(params: Params, n: int, key: jax.Array) -> jax.Array:
    """Draw n embeddings from the normal distribution of the vocabulary's embeddings, float32 `[n,D]`.

    It has the mean and the covariance of all token embeddings of the text encoder.
    """
    return from_distribution(vocabulary(params), n, key)


def from_distribution(
    embeddings: jax.Array | np.ndarray, n: int, key: jax.Array, mean: jax.Array | None = None
) -> jax.Array:
    """Draw n embeddings from the normal distribution of `embeddings` `[m,D]`, float32 `[n,D]`.

    It has the embeddings' sample covariance (divided by m-1), for example of earlier runs, and their mean or
    another one, `mean` `[D]`. With m ≤ D, the covariance is singular: draws stay in the space that the
    embeddings span around the mean.

    Raises ValueError unless m is 2 or more.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            f"embeddings must have shape [m, D] with m at least 2, found {list(embeddings.shape)}"
        )
    embeddings = jnp.asarray(embeddings, jnp.float32)
    centre, m = embeddings.mean(0), len(embeddings)
    # Standard normal rows times the centred embeddings have the sample covariance: no square root is needed.
    noise = jax.random.normal(key, (n, m)) / jnp.sqrt(m - 1.0)
    return (centre if mean is None else mean) + jnp.matmul(noise, embeddings - centre, precision="highest")


def word_ids(pipe: Pipeline) -> np.ndarray:
    """Return the ids of the tokens that are whole words of letters, int `[m]`.

    The text of such a token has this one token. A text of such words, with spaces or commas between them, can
    therefore be typed into any program.
    """
    count = pipe.text_encoder.vocab_size
    texts = [_text(pipe, i) for i in range(count)]
    ids = pipe.tokenize(texts)
    start, end = pipe.tokenize([""])[0, :2]
    is_word = (ids[:, 1] == np.arange(count)) & (ids[:, 2] == end) & ~np.isin(ids[:, 1], (start, end))
    return np.array([i for i in np.flatnonzero(is_word) if texts[i].isalpha()])


def nearest_words(
    pipe: Pipeline, params: Params, embeddings: np.ndarray, k: int = 3
) -> list[list[tuple[str, float]]]:
    """Return the texts and cosine similarities of the k tokens nearest to each of `embeddings` `[n,D]`.

    The nearest comes first. Of two tokens with the same text (`room` as a word, and as the start of a longer
    one), only the nearer is listed. Tokens that are not printable text (a part of a character) are skipped.

    Raises ValueError for another shape, NaN or infinity.
    """
    table = _unit(np.asarray(vocabulary(params)))
    cosines = _unit(_expect_embeddings("embeddings", np.asarray(embeddings, np.float32))) @ table.T
    return [_nearest(pipe, row, k) for row in cosines]


def _nearest(pipe: Pipeline, cosines: np.ndarray, k: int) -> list[tuple[str, float]]:
    words: dict[str, float] = {}
    for i in np.argsort(-cosines).tolist():
        if len(words) == k:
            break
        text = _text(pipe, i)
        if text and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text:
            words.setdefault(text, float(cosines[i]))
    return list(words.items())


def _stacked(content: Any, path: Path) -> np.ndarray:
    """Return the vectors of all tokens in the content of a file, stacked by index."""
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} must hold embeddings by token, found {type(content).__name__} {content!r:.60}"
        )
    if "string_to_param" in content:
        content = content["string_to_param"]
    if {"clip_l", "clip_g"} <= content.keys():
        raise ValueError(
            f"{path} is a textual inversion of Stable Diffusion XL (clip_l, clip_g), which gap_jax does not "
            "have: give one of Stable Diffusion 1.x or 2.x"
        )
    _expect_tokens([str(name) for name in content], path)
    arrays = {name: to_array(value, name, path) for name, value in content.items()}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    matches = {name: re.fullmatch(r"(.*?)(\d+)(\D*)", str(name)) for name in arrays}
    name_by_index = {int(match[2]): name for name, match in matches.items() if match}
    names_without_index = {(match[1], match[3]) if match else name for name, match in matches.items()}
    if len(names_without_index) > 1 or sorted(name_by_index) != list(range(len(arrays))):
        raise ValueError(
            f"{path} must hold one token with all vectors, or tokens numbered from 0, found "
            f"{identify(map(str, arrays))[:200]}"
        )
    vectors = [arrays[name_by_index[i]] for i in range(len(arrays))]
    shapes = sorted({vector.shape for vector in vectors})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"the numbered tokens in {path} must all have one shape [D], found {', '.join(map(str, shapes))}"
        )
    return np.stack(vectors)


def _expect_tokens(names: Sequence[str], path: Path) -> None:
    """Raise ValueError for names of a model's parameters, which no token has."""
    if any(name.rpartition(".")[2] in _PARAMETERS for name in names):
        found = kind_of(names) or (
            f"{', '.join(names[:3])[:200]}, a model's parameters: give a textual inversion, whose vectors "
            "are named after their token, such as <gap>"
        )
        raise ValueError(
            f"{path} must hold one token with all vectors, or tokens numbered from 0, found {found}"
        )


def _expect_embeddings(name: str, embeddings: np.ndarray) -> np.ndarray:
    expect_shape(name, embeddings, (None, None), "a prompt has one vector [D] for each placeholder")
    if not embeddings.size:
        raise ValueError(f"{name} must not be empty, found {list(embeddings.shape)}")
    expect_finite(name, embeddings)
    return embeddings


def _token_ids(pipe: Pipeline, text: str) -> list[int]:
    """Return the ids of a text without start, end and padding tokens."""
    end = pipe.tokenize([""])[0, 1]
    ids = pipe.tokenize([text])[0, 1:].tolist()
    return ids[: ids.index(end)]


def _text(pipe: Pipeline, token_id: int) -> str:
    return pipe.tokenizer.decode([token_id], pipe.text_encoder.vocab_size)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
