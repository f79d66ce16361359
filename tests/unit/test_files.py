"""A file appears whole or not at all, and what hinders it is one line."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kan_md.errors import KanMdError
from kan_md.files import cannot_write, write_bytes, write_text, written_whole

FULL = Path("/dev/full")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_full_disk_leaves_the_older_file_and_no_remains(tmp_path, files_up_to):
    path = write_text(tmp_path / "a.txt", "older")
    with files_up_to(1000), pytest.raises(KanMdError) as caught:
        write_bytes(path, bytes(5000))
    assert str(caught.value) == (
        f"cannot write {path}, got a file beyond the limit on file sizes; raise it, see `ulimit -f`"
    )
    assert path.read_text() == "older"
    assert names(tmp_path) == ["a.txt"]


def test_full_disk_is_said_whoever_writes_to_the_open_file(tmp_path, files_up_to):
    with (
        files_up_to(1000),
        pytest.raises(KanMdError, match="got a file beyond the limit"),
        written_whole(tmp_path / "a.csv") as temporary,
        temporary.open("w") as file,
    ):
        for number in range(5000):
            file.write(f"{number}\n")
    assert names(tmp_path) == []


def test_what_goes_wrong_inside_passes_through_and_leaves_nothing(tmp_path):
    path = write_text(tmp_path / "a.txt", "older")
    for error in (ValueError("no"), FileNotFoundError(errno.ENOENT, "no such file", "elsewhere")):
        with pytest.raises(type(error)), written_whole(path) as temporary:
            temporary.write_text("new")
            raise error
    assert path.read_text() == "older"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "got no space left on the disk; free some space"),
        (errno.EDQUOT, "got a disk quota that is used up; free some space"),
        (errno.EROFS, "got a read-only file system; choose another place"),
        (errno.EACCES, "got no permission; choose another place"),
    ],
)
def test_cause_is_named(number, text):
    assert text in str(cannot_write("x", OSError(number, "its words")))


def test_links_go_on_pointing_and_the_users_mask_decides(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "there" / "file.txt")
    before = os.umask(0o027)
    try:
        write_text(link, "Å")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert (tmp_path / "there" / "file.txt").read_bytes() == "Å".encode()
    assert stat.S_IMODE((tmp_path / "there" / "file.txt").stat().st_mode) == 0o640
    assert names(tmp_path / "there") == ["file.txt"]


def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(KanMdError, match="got a device, pipe or socket"):
        write_text(tmp_path / "pipe", "text")
    with pytest.raises(KanMdError, match="got a folder of that name"):
        write_text(tmp_path, "text")
    with pytest.raises(KanMdError, match="got no such folder; make it"):
        write_text(tmp_path / "no" / "file", "text")
    (tmp_path / "file").touch()
    with pytest.raises(KanMdError, match="got a file where a folder is meant"):
        write_text(tmp_path / "file" / "a" / "b", "text", make_folder=True)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_full_output_stream_is_one_line():
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "kan_md", "inputs", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        "kan-md: error: cannot write the output or a temporary file, got no space left on the "
        "disk; free some space or choose another place\n"
    )


def test_closed_pipe_is_silent():
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "kan_md", "inputs", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert ended.stderr == ""
    assert ended.returncode == 1
