"""Where the project's own files are: weights under ``load/``, whatever the working directory."""

from __future__ import annotations

import os
import shlex
from importlib import metadata
from pathlib import Path

from .errors import UserError

_PACKAGE = Path(os.path.abspath(__file__)).parent  # links are kept: a linked extension belongs where it is linked into


def project_root() -> Path:
    """The checkout that holds ``custom/`` and ``load/``, or the working directory if the extension is a copy."""
    return _PACKAGE.parents[1] if _PACKAGE.parent.name == "custom" else Path.cwd()


def find_file(path: str | os.PathLike[str]) -> Path | None:
    """``path`` as seen from the working directory, else from the project; None if it is in neither place."""
    for candidate in (Path(path), project_root() / path):
        if candidate.is_file() or candidate.is_dir():  # not a pipe, which would be waited for
            return candidate
    return None


def expand(path: str | os.PathLike[str]) -> Path:
    """``~`` and ``~user`` as folders; that of a user who is not there stays, where ``Path`` would raise."""
    return Path(os.path.expanduser(path))


def train_command(clip: str | os.PathLike[str], loop: bool) -> str:
    """The command line that trains on a clip, as it can be pasted into a shell."""
    settings = shlex.join([f"data.image_seq_path={clip}", f"data.loop={str(loop).lower()}"])
    return f"python launch.py --config configs/consistent4d.yaml --train {settings}"


def fetch_command(name: str) -> str:
    """The command line that fetches an asset of :mod:`threestudio_4d.fetch`, as it works in this installation."""
    try:
        metadata.distribution("threestudio-4d")
    except metadata.PackageNotFoundError:
        script = _PACKAGE / "fetch.py"
        relative = os.path.relpath(script)
        return f"python {script if relative.startswith('..') else relative} {name}"
    return f"python -m threestudio_4d.fetch {name}"


def regular_file(path: str | os.PathLike[str]) -> Path:
    """``path``, if reading it ends: a named pipe or a device would be waited for without end.

    Raises:
        UserError: something is there that is not a file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise UserError(f"{path} is {kind}: a file is needed there.")
    return path


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether a path is UTF-8; names on disk need not be, and some libraries do not survive such ones."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
