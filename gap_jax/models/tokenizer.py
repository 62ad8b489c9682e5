"""CLIP's tokenizer (transformers' files and code), with placeholders `<0>`, `<1>`, … in the text."""

import dataclasses
import functools
import itertools
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer's files, by name; two are equal, and hash alike, if the files are."""

    files: tuple[tuple[str, bytes], ...]

    @functools.cached_property
    def _clip(self):
        from transformers import CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return CLIPTokenizer.from_pretrained(folder)

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self.files:
            (Path(folder) / name).write_bytes(content)

    def encode(
        self, texts: Sequence[str], *, length: int, vocab_size: int, placeholders: int = 0
    ) -> np.ndarray:
        """Token ids, int32 `[B, length]`: start, text, end, padding.

        With `placeholders` n > 0, `<i>` in a text becomes the id `vocab_size + i`. Text beyond `length` is
        cut with one warning that quotes what was cut. Raises ValueError for an `<i>` with i ≥ n.
        """
        if isinstance(texts, str):
            raise TypeError(f"texts must be a list of strings, found the string {texts!r}")
        clip = self._clip
        rows, cut = [], []
        for text in texts:
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
        """The text of token ids, placeholders as `<i>`."""
        pieces = []
        for is_text, run in itertools.groupby(ids, lambda i: i < vocab_size):
            run = list(run)
            pieces += [self._clip.decode(run)] if is_text else [f"<{i - vocab_size}>" for i in run]
        return " ".join(pieces)

    def _ids(self, text: str, vocab_size: int, placeholders: int) -> list[int]:
        ids = []
        for i, piece in enumerate(re.split(r"<(\d+)>", text) if placeholders else [text]):
            if i % 2 == 0:
                ids += self._clip(piece, add_special_tokens=False, verbose=False).input_ids
            elif int(piece) < placeholders:
                ids.append(vocab_size + int(piece))
            else:
                raise ValueError(
                    f"<{piece}> in {text!r}: with {placeholders} placeholders, "
                    f"the last is <{placeholders - 1}>"
                )
        return ids
