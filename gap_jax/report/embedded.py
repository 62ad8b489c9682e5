"""The pictures of a report, embedded into its page as data URIs."""

import base64
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gap_jax.report.results import Results

SMALL = 128  # pixels; pictures up to this side are shown enlarged pixel by pixel, larger ones are compressed
LARGEST = 512  # pixels; larger pictures are made smaller
_QUALITY = 85  # of WebP


class EmbeddedPictures:
    """The pictures of the results as data URIs, equal ones only once, and each one's number by its path."""

    def __init__(self, results: Results, folder: Path):
        pictures = {path: _data_uri(folder / path) for path in dict.fromkeys(_paths(results))}
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


def _data_uri(path: Path) -> tuple[str, bool]:
    """Return a picture as a data URI, and True if it is small; a large one is made smaller, as WebP."""
    if not path.is_file():
        raise FileNotFoundError(f"picture {path} is missing, but the results name it")
    content = path.read_bytes()
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"picture {path} cannot be read: {error}") from error
    small, kind = max(image.size) <= SMALL, Image.MIME[str(image.format)]
    if not small:
        image = image.convert("RGB")
        image.thumbnail((LARGEST, LARGEST))
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=_QUALITY)
        content, kind = stream.getvalue(), "image/webp"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", small
