"""CLIP's tokenizer, with placeholders `<0>`, `<1>`, … in the text.

Files and byte-pair encoding are those of transformers' `CLIPTokenizer`.
"""

import dataclasses
import functools
import html
import itertools
import json
import os
import re
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gap_jax.errors import how_to_install

FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)

_IMPORTING = threading.Lock()  # two threads that import transformers at once break its lazy import


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, as the names and contents of its files. Tokenizers with equal files are equal.

    It is frozen and hashable, so it can be a static argument of `jax.jit`.
    """

    files: tuple[tuple[str, bytes], ...]

    @functools.cached_property
    def _clip(self):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else it warns if torch is missing
        with _IMPORTING:
            from transformers import CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return CLIPTokenizer.from_pretrained(folder)

    def save(self, folder: str | Path) -> None:
        """Write the files to a folder, from which transformers' `CLIPTokenizer` loads them."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self.files:
            (Path(folder) / name).write_bytes(content)

    def encode(
        self,
        texts: Sequence[str],
        *,
        length: int,
        vocab_size: int,
        placeholders: int = 0,
        expand_inversions: bool = False,
    ) -> np.ndarray:
        """Return the token ids of `texts`, int32 `[B, length]`: start, text, end, padding.

        With `placeholders` n > 0, `<i>` in a text becomes the id `vocab_size + i`. A text that is too long is
        cut, and one warning quotes what was cut. `expand_inversions` names tokens as diffusers' pipelines do
        where textual inversions were added to the vocabulary: `<x>` stands for all of its vectors, `<x>`,
        `<x>_1`, `<x>_2`, …. Raises ValueError for an `<i>` with i ≥ n, TypeError for a single string.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of strings, found the string {texts!r}: give [text]")
        clip = self._clip
        rows, cut = [], []
        for text in texts:
            if expand_inversions:
                text = self._expand_inversions(text)
            ids = self._ids(text, vocab_size, placeholders)
            ids, surplus = ids[: length - 2], ids[length - 2 :]
            if surplus:
                cut.append(self.decode(surplus, vocab_size))
            ids = [clip.bos_token_id, *ids, clip.eos_token_id]
            rows.append(ids + [clip.pad_token_id] * (length - len(ids)))
        if cut:
            quoted = "; ".join(repr(text) for text in cut)
            warnings.warn(f"text beyond {length - 2} tokens was cut: {quoted}", stacklevel=3)
        return np.array(rows, np.int32).reshape(-1, length)

    def decode(self, ids: Sequence[int], vocab_size: int) -> str:
        """Return the text of token ids, with placeholders as `<i>`."""
        pieces = []
        for is_text, group in itertools.groupby(ids, lambda i: i < vocab_size):
            run = list(group)
            pieces += [self._clip.decode(run)] if is_text else [f"<{i - vocab_size}>" for i in run]
        return " ".join(pieces)

    @functools.cached_property
    def _inversions(self) -> dict[str, str]:
        """The name of each added token of several vectors, with the names of all of them, in order."""
        added = self._clip.added_tokens_encoder
        return {
            name: " ".join([name, *itertools.takewhile(added.__contains__, names)])
            for name in added
            if f"{name}_1" in added
            for names in [(f"{name}_{i}" for i in itertools.count(1))]
        }

    def _expand_inversions(self, text: str) -> str:
        for name, names in self._inversions.items():
            escaped = re.escape(name)
            alone = (
                rf"{escaped}(?!_\d|\s*{escaped}_1)"  # neither another vector, nor followed by the next one
            )
            text = names.join(re.split(alone, text))
        return text

    def _ids(self, text: str, vocab_size: int, placeholders: int) -> list[int]:
        ids = []
        for i, piece in enumerate(re.split(r"<(\d+)>", text) if placeholders else [text]):
            if i % 2 == 0:
                ids += self._clip(piece, add_special_tokens=False, verbose=False).input_ids
            elif int(piece) < placeholders:
                ids.append(vocab_size + int(piece))
            else:
                raise ValueError(
                    f"<{piece}> in {text!r} is out of range: with {placeholders} placeholders, "
                    f"the last is <{placeholders - 1}>; correct the text or give more placeholders"
                )
        return ids


def name_placeholders(count: int, joiner: str = ",") -> str:
    """Return the text `<0>,<1>,…` that names `count` placeholder tokens."""
    return joiner.join(f"<{i}>" for i in range(count))


def clean_caption(text: str) -> str:
    """Clean a caption as OpenAI's CLIP does before it tokenizes (`simple_tokenizer.py` of openai/CLIP).

    Text in a wrong encoding is mended and curly quotes become straight ones, by `ftfy`; HTML entities such as
    `&amp;` become letters; blanks are joined. transformers does none of this: clean captions for a CLIP that
    OpenAI trained, as in `clip.tokenize([clean_caption(text)])`. Raises ImportError without `ftfy`.
    """
    try:
        import ftfy
    except ImportError as error:
        raise ImportError(f"cleaning captions needs ftfy: {how_to_install('captions')}") from error
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def train_tokenizer(words: Sequence[str], length: int) -> tuple[Tokenizer, int]:
    """Return a tokenizer in CLIP's format that has each of `words` as one token, and its vocabulary's size.

    Any other text falls into pieces of words and bytes, as with every byte-pair encoding (Sennrich et al.,
    arXiv 1508.07909). `length` is the most tokens that a text can have: the text encoder's
    `max_position_embeddings`. Equal words give equal files, which training with the `tokenizers` package does
    not promise.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    merges = _learn_merges([(*word[:-1], word[-1] + "</w>") for word in dict.fromkeys(words)])
    letters = sorted(ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), start, end]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    files = {
        "tokenizer_config.json": json.dumps(config, indent=2),
        "vocab.json": json.dumps({token: i for i, token in enumerate(vocabulary)}),
        "merges.txt": "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges),
    }
    return Tokenizer(tuple((name, text.encode()) for name, text in files.items())), len(vocabulary)


def _learn_merges(words: Sequence[tuple[str, ...]]) -> list[tuple[str, str]]:
    """Return the merges that make every word whole: the most frequent pair first, ties in order."""
    merges = []
    while counts := Counter(pair for word in words for pair in itertools.pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)
