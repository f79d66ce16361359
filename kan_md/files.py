"""Writing files: each appears whole or not at all, and what hinders it is one line.

A file is written beside its final name, brought onto the disk, and renamed. So a full disk, a quota
or a killed process leaves what was there before, and no remains.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kan_md.errors import KanMdError, user_error

_FREE = "free some space or choose another place"
_ELSEWHERE = "choose another place"
_FULL_DISK: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space left on the disk", _FREE),
    errno.EDQUOT: ("a disk quota that is used up", _FREE),
    errno.EFBIG: ("a file beyond the limit on file sizes", "raise it, see `ulimit -f`"),
    errno.EROFS: ("a read-only file system", _ELSEWHERE),
    errno.EIO: ("an input/output error of the disk", _ELSEWHERE),
}
_NO_PLACE: dict[int, tuple[str, str]] = {
    errno.EACCES: ("no permission", _ELSEWHERE),
    errno.EPERM: ("no permission", _ELSEWHERE),
    errno.ENOENT: ("no such folder", "make it or choose another place"),
    errno.ENOTDIR: ("a file where a folder is meant", _ELSEWHERE),
    errno.EEXIST: ("a file where a folder is meant", _ELSEWHERE),
    errno.EISDIR: ("a folder of that name", "choose another name"),
    errno.ENAMETOOLONG: ("a name that is too long", "choose another name"),
}
_LONGEST_STEM = 100


def is_full_disk(error: OSError) -> bool:
    """Whether the disk refuses more data, rather than that a path is wrong."""
    return error.errno in _FULL_DISK


def cannot_write(path: object, error: OSError) -> KanMdError:
    """Say in one line why a file cannot be written, and what to do.

    Args:
        path: of the file, or what was written to.
        error: what the system said.
    """
    found, remedy = (_FULL_DISK | _NO_PLACE).get(
        error.errno or 0, (error.strerror or str(error), _ELSEWHERE)
    )
    return user_error(f"cannot write {path}", found=found, allowed=None, remedy=remedy)


@contextmanager
def written_whole(
    path: str | Path,
    *,
    make_folder: bool = False,
    durable: bool = True,
    keep: Path | None = None,
) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place unless something is raised.

    Args:
        path: file to write; a link is followed, so that it goes on pointing to the file.
        make_folder: make the folder where it is missing.
        durable: wait until the content is on the disk; without, a power failure may cost it.
        keep: name in the same folder under which the file that is replaced stays.

    Yields:
        The file to write to, empty, with the ending of ``path``.

    Raises:
        KanMdError: the place takes no such file, or the disk is full; nothing has changed then.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        target = _target(path)
        if make_folder:
            target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _empty_beside(target)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        if durable:
            _flush(temporary)
        if keep is not None and target.exists():
            target.replace(keep)
        temporary.replace(target)
        temporary = None
        if durable:
            _flush(target.parent)
    except OSError as error:
        if _concerns(error, temporary, target):
            raise cannot_write(path, error) from error
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(
    path: str | Path,
    content: bytes | memoryview,
    *,
    make_folder: bool = False,
    durable: bool = True,
) -> Path:
    """Write a file whole; see :func:`written_whole`."""
    path = Path(path)
    with written_whole(path, make_folder=make_folder, durable=durable) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(
    path: str | Path, text: str, *, make_folder: bool = False, durable: bool = True
) -> Path:
    """Write a text file whole, in UTF-8 whatever the locale; see :func:`written_whole`."""
    return write_bytes(path, text.encode(), make_folder=make_folder, durable=durable)


def check_writable(path: str | Path, *, overwrite: bool) -> None:
    """Refuse an output file before work is spent on it.

    Raises:
        KanMdError: the file exists and may not be replaced, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise user_error(
            f"output file {path}", found="a folder", allowed=None, remedy="choose another name"
        )
    if path.exists() and not overwrite:
        raise user_error(
            f"output file {path}",
            found="an existing file",
            allowed=None,
            remedy="choose another name or give --overwrite",
        )
    if not is_writable(path.parent):
        raise user_error(
            f"output file {path}",
            found=f"folder {path.parent} that is missing or not writable",
            allowed=None,
            remedy="choose a folder that exists and is writable",
        )


def is_writable(folder: str | Path) -> bool:
    """Whether a folder is there and takes files; tried, as permissions alone do not say it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _target(path: Path) -> Path:
    """The file itself where ``path`` is a link; nothing but a regular file is ever replaced."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise OSError(errno.EINVAL, "a device, pipe or socket", str(path))
    return target


def _empty_beside(target: Path) -> Path:
    """Make an empty file with the permissions that the user's mask leaves to a new one."""
    stem = f".{target.stem[:_LONGEST_STEM]}.{secrets.token_hex(4)}"
    temporary = target.with_name(stem + target.suffix)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _flush(path: Path) -> None:
    """Bring a file, or the entries of a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot do this for folders, and a few not at all.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _concerns(error: OSError, *paths: Path | None) -> bool:
    """Whether an error is about these files, rather than about another that was open."""
    if error.filename is None:
        return is_full_disk(error)
    return any(str(path) in (error.filename, error.filename2) for path in paths)
