"""The pictures of a report, embedded into its page as data URIs."""

import base64
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from gap_jax.report.results import Results

SMALL = 128  # pixels; pictures up to this side keep every pixel and are shown enlarged pixel by pixel
LARGEST = 512  # pixels; larger pictures are made smaller
_LARGE: dict[str, Any] = {"quality": 85}  # of WebP
_LOSSLESS: dict[str, Any] = {"lossless": True, "quality": 20, "method": 3}  # 0.6 of PNG's size, in 3 ms


class EmbeddedPictures:
    """The pictures of the results as data URIs, equal ones only once, and each one's number by its path."""

    def __init__(self, results: Results, folder: Path):
        pictures = {path: data_uri(folder / path) for path in dict.fromkeys(_paths(results))}
        numbers = {picture: i for i, picture in enumerate(dict.fromkeys(pictures.values()))}
        self.numbers = {path: numbers[picture] for path, picture in pictures.items()}
        self.uris = [uri for uri, _ in numbers]
        self.small = [small for _, small in numbers]


def _paths(results: Results) -> Iterator[str]:
    for prompt in results.prompts:
        yield from prompt.targets
        for example in prompt.examples:
            yield from (example.label, example.original)
            for frame in example.frames:
                yield from filter(None, (frame.generated, frame.prediction, frame.error))
    for row in results.models:
        for shown in row.examples:
            yield from (shown.label, shown.image, *chain(*shown.predictions.values()))


def data_uri(path: Path) -> tuple[str, bool]:
    """Return a picture as a data URI of WebP, and True if it is small; a large one is made smaller."""
    if not path.is_file():
        raise FileNotFoundError(f"picture {path} is missing, but the results name it")
    content = path.read_bytes()
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"picture {path} cannot be read: {error}") from error
    image, small = image.convert("RGB"), max(image.size) <= SMALL
    image.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    image.save(stream, "WEBP", **_LOSSLESS if small else _LARGE)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}", small
