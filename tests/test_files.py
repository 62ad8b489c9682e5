"""Atomic writing of files: what readers see, and what a kill, a full disk or another process leaves."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gap_jax.files import fsync_tree, write_whole

ROOT = Path(__file__).parent.parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "a" / "b" / "results.json"
    write_whole(path, b"old")
    assert path.read_bytes() == b"old"
    write_whole(str(path), b"new\0\xff")
    assert path.read_bytes() == b"new\0\xff"
    assert names(path.parent) == ["results.json"]


def test_content_is_on_the_disk_before_it_takes_its_place_and_the_folder_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        if len(events) == 1:
            assert (tmp_path / events[0]).read_bytes() == b"new"
        fsync(descriptor)

    def note_replace(source, target):
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_whole(tmp_path / "file", b"new")
    assert events == [f".file.{os.getpid()}", "replace", tmp_path.name]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_in_between_leaves_the_old_file(tmp_path, function):
    (tmp_path / "file").write_bytes(b"old")
    script = (
        f"import os, signal; os.{function} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"from gap_jax.files import write_whole; write_whole({str(tmp_path / 'file')!r}, b'new')"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode < 0
    assert (tmp_path / "file").read_bytes() == b"old"
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_reported_with_the_path_and_leaves_the_old_file(tmp_path, monkeypatch, function):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    with monkeypatch.context() as patched, pytest.raises(OSError) as raised:
        patched.setattr(os, function, full)
        write_whole(tmp_path / "file", b"new")
    assert raised.value.errno == errno.ENOSPC
    assert f"{tmp_path / 'file'} could not be written: No space left on device" in str(raised.value)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_partial_write_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="file could not be written: File too large"):
            write_whole(tmp_path / "file", b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_reported_with_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"file/below could not be written"):
        write_whole(tmp_path / "file" / "below", b"new")


WRITING = """
import sys
from gap_jax.files import write_whole
for _ in range(40):
    write_whole(sys.argv[1], sys.argv[2].encode() * 100_000)
"""


def test_while_two_processes_write_a_reader_sees_only_complete_files(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"0" * 100_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITING, path, name], cwd=ROOT) for name in "ab"]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        contents.add(path.read_bytes())
    contents.add(path.read_bytes())
    assert [writer.wait() for writer in writers] == [0, 0]
    assert contents <= {name * 100_000 for name in (b"0", b"a", b"b")}
    assert names(tmp_path) == ["file"]


def test_a_tree_is_flushed_with_all_that_it_holds(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"")
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    fsync_tree(tmp_path)
    assert sorted(flushed) == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "file")]
