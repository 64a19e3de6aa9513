"""Results appear under their names when they are whole, or not at all.

Everything that a run or a tool leaves behind is written under a temporary name beside its place and renamed. After a
failure nothing of it stays, and the message says what could not be written, why, and what to do. What a killed process
left is removed by the next one that writes into the same folder.

The host and the extension, which also runs in other hosts, have one copy each of this file; a test keeps them the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

__all__ = ["WriteError", "atomic_file", "atomic_folder", "no_room", "write_bytes", "write_text"]

_NO_ROOM = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it is larger than files may be here",
}
_HOST = re.sub(r"\W", "_", socket.gethostname())[:32] or "host"
_LEFTOVER = re.compile(rf"\..*\.{re.escape(_HOST)}-(\d+)\.(?:partial|old)")
_swept: set[str] = set()


class WriteError(UserError):
    """A result cannot be written: no room, no permission, a failing disk. ``reason`` says it in short."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def no_room(error: BaseException) -> str | None:
    """Why there is no room, if that is what the error is about."""
    return _NO_ROOM.get(getattr(error, "errno", None) or 0)


@contextmanager
def atomic_file(path: str | os.PathLike[str], sync: bool = False) -> Iterator[Path]:
    """A temporary path, ending in ``.partial``, whose file takes the place of ``path`` when the block ends well.

    Parent folders are made. An error of the block that does not come from writing passes through.

    Args:
        sync: wait until the disk has the file, for what must survive a loss of power.

    Raises:
        WriteError: the file cannot be written.
    """
    target = Path(path)
    temporary = _beside(target, "partial")
    try:
        if target.exists() and not target.is_file():
            raise WriteError(f"cannot write '{target}': it is {_kind(target)}.")
        _prepare(target.parent)
        yield temporary
        if sync:
            _sync(temporary)
        os.replace(temporary, target)
        if sync:
            _sync(target.parent)
    except Exception as error:
        _explain(error, target, temporary, temporary)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder that takes the place of ``path``, and of what is in it, when the block ends well.

    Raises:
        WriteError: the folder or a file in it cannot be written.
    """
    target = Path(os.path.realpath(path))  # the folder that a link leads to is replaced, not the link
    partial, old = _beside(target, "partial"), _beside(target, "old")
    try:
        if target.exists() and not target.is_dir():
            raise WriteError(f"cannot write '{target}': it is {_kind(target)}.")
        _prepare(target.parent)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if target.is_dir():
            os.replace(target, old)
        try:
            os.replace(partial, target)
        except OSError:
            if old.is_dir():
                os.replace(old, target)
            raise
    except Exception as error:
        _explain(error, target, partial, partial / ".probe")
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes, sync: bool = False) -> None:
    """Write a file; see :func:`atomic_file`."""
    with atomic_file(path, sync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, sync: bool = False) -> None:
    """Write a file in UTF-8; see :func:`atomic_file`."""
    write_bytes(path, text.encode("utf-8"), sync)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name[:150]}.{_HOST}-{os.getpid()}.{kind}")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a file" if path.is_file() else "not a regular file"


def _prepare(folder: Path) -> None:
    """Make the folder; at the first visit remove what killed processes of this machine left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = os.path.realpath(folder)
    if key in _swept or os.name != "posix":
        return
    _swept.add(key)
    for entry in os.scandir(folder):
        match = _LEFTOVER.fullmatch(entry.name)
        if match is None or _is_alive(int(match[1])):
            continue
        name = entry.name[1 : match.start(1) - len(_HOST) - 2]
        with contextlib.suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif entry.name.endswith(".old") and not os.path.lexists(folder / name):
                os.replace(entry.path, folder / name)  # killed between its two renames
            else:
                shutil.rmtree(entry.path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: Exception, target: Path, temporary: Path, probe: Path) -> None:
    """Raise a ``WriteError`` if the error came from writing; return if it did not."""
    if isinstance(error, WriteError) and temporary.name in str(error):  # a file of a folder that is not yet in place
        raise WriteError(str(error).replace(temporary.name, target.name), error.reason) from error
    if isinstance(error, UserError):
        return
    reason = no_room(error) or _probe(error, probe)
    if reason is None and isinstance(error, OSError):
        about = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else None
        ours = about is not None and (about.startswith(str(temporary)) or Path(about) in (target, *target.parents))
        if ours and isinstance(error, FileExistsError):
            reason = f"'{_shown(Path(about))}' is a file"
        elif ours or error.errno in (errno.EROFS, errno.EIO):
            reason = error.strerror or str(error)
    if reason is None:
        return
    message = f"cannot write '{_shown(target)}': {reason}"
    if no_room(error) or reason in _NO_ROOM.values():
        with contextlib.suppress(OSError):
            message += f" ({shutil.disk_usage(target.parent).free / 1e6:.0f} MB free)"
        message += ". Free some space, or choose another place: exp_root_dir= for a run, the result's name for a tool"
    kept = ", and what was there before is as it was" if target.exists() else ""
    raise WriteError(f"{message}. Nothing incomplete was left{kept}.", reason) from error


def _probe(error: Exception, probe: Path) -> str | None:
    """Whether a library that hides its reason failed for want of room: then not even a little more can be written."""
    if isinstance(error, OSError) and error.errno is not None:
        return None
    try:
        with open(probe, "ab") as file:
            file.write(bytes(65536))
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return no_room(refused)
    return None


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
