"""Text files as people's editors write them: their encoding, and the file names in them."""

import codecs
from pathlib import Path

_ENCODINGS = (  # by byte-order mark; UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path) -> str:
    r"""Read a text file in UTF-8, or in the encoding that its byte-order mark tells; lines end in "\n".

    Raises FileNotFoundError if the file is missing, ValueError naming the line that is in another encoding.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _ENCODINGS if content.startswith(mark)), "utf-8")
    advice = "save the file as UTF-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}:{line} is not {encoding.removesuffix('-sig').upper()}, but perhaps Latin-1 or another "
            f"encoding: {advice}"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"{path} holds zero bytes, like text in UTF-16 without a byte-order mark, or no text at all: "
            f"{advice}"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, each with its number; errors are `read_text`'s."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def locate(folder: Path, name: str) -> Path:
    r"""Return the path of a file that a table names, relative to `folder`.

    Backslashes separate folders as "/" does, unless a file has this very name. A name may repeat that of
    `folder`: `train/a.jpg` in the folder `train` is found, too.
    """
    path = folder / name
    if "\\" in name and not path.exists():
        name = name.replace("\\", "/")
        path = folder / name
    first, _, rest = name.removeprefix("./").partition("/")
    if rest and first == folder.absolute().name and not path.exists():
        return folder / rest
    return path
