"""Text files as editors on other systems write them."""

import codecs

import pytest

from gap_jax.data.depth.taskonomy import read_selection
from gap_jax.data.image_folder import read_metadata
from gap_jax.data.masked.boxes import read_boxes
from gap_jax.data.reading.text import locate, read_lines, read_text
from gap_jax.data.table import read_table

TEXT = 'id,name\n1,"Müller, naïve"\n2,雪\n'


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_in_the_encoding_of_its_byte_order_mark(mark, encoding, end, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(mark + TEXT.replace("\n", end).encode(encoding))
    assert read_text(path) == TEXT
    rows = read_table(path, ("id", "name"))
    assert [row.cells for row in rows] == [{"id": "1", "name": "Müller, naïve"}, {"id": "2", "name": "雪"}]


def test_other_encodings_are_named_with_their_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("id,name\n1,a\n2,café\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"table.csv:3 is not UTF-8, but perhaps Latin-1 .* save the file as UTF-8"
    ):
        read_table(path, ("id",))
    path.write_bytes("id,name\n1,a\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"table.csv holds zero bytes, like text in UTF-16 without"):
        read_table(path, ("id",))


def test_every_reader_takes_a_byte_order_mark(tmp_path):
    path = tmp_path / "file"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text('{"file_name": "a.png", "text": "é"}\n', encoding=encoding)
        assert read_metadata(path, ("file_name", "text")).lines == [{"file_name": "a.png", "text": "é"}]
        name = "h_depth_zbuffer/depth_zbuffer/point_1_view_2_domain_depth_zbuffer.png"
        path.write_text(f"{name}\n", encoding=encoding)
        assert read_selection(path) == {"h": {"h/1/2": name}}
        boxes = path.with_suffix(".json")
        boxes.write_text('{"images": [{"file": "é.png", "detections": []}]}', encoding=encoding)
        assert read_boxes(boxes) == []


def test_a_selection_may_have_backslashes(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("D:\\t\\h_depth_zbuffer\\depth_zbuffer\\point_1_view_2_domain_depth_zbuffer.png\r\n")
    assert list(read_selection(path)) == ["h"]


def test_only_line_ends_separate_lines(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.png", "text": "one\u2028two\x85"}\n\n', encoding="utf-8")
    assert [line["text"] for line in read_metadata(path, ("text",)).lines] == ["one\u2028two\x85"]
    path.write_text(" a \n\n b", encoding="utf-8")
    assert read_lines(path) == [(1, "a"), (3, "b")]


def test_blanks_around_cells_and_empty_lines_do_not_count(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("id , train\n apartment_0-15,1 \n\n , \n")
    assert [row.cells for row in read_table(path, ("id", "train"))] == [
        {"id": "apartment_0-15", "train": "1"}
    ]


def test_a_cell_that_never_ends_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('id,name\n1,"' + "a" * 200_000 + '"\n')
    with pytest.raises(ValueError, match=r"table.csv:2 is not CSV: field larger than field limit"):
        read_table(path, ("id",))


def test_names_with_backslashes_or_their_folders_name_are_found(tmp_path):
    folder = tmp_path / "train"
    for name in ("cat/a.jpg", "train/b.jpg", r"odd\name.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, found in (
        (r"cat\a.jpg", "cat/a.jpg"),
        ("train/cat/a.jpg", "cat/a.jpg"),
        (r".\train\cat\a.jpg", "cat/a.jpg"),
        ("train/b.jpg", "train/b.jpg"),
        (r"odd\name.jpg", r"odd\name.jpg"),
    ):
        assert locate(folder, name) == folder / found
