"""The folder of a run: claimed once everything is checked, and removed again if nothing came of it."""

import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from threestudio.launching.lock import FolderLock
from threestudio.utils.atomic import write_bytes
from threestudio.utils.config import dump_config
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_rank

CONFIGS = "configs"
RAW_NAME, PARSED_NAME = "raw.yaml", "parsed.yaml"


class Trial:
    """The trial folder as this call sees it.

    Args:
        folder: ``<exp_root_dir>/<name>/<tag><timestamp>``; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FolderLock(folder)
        self._made: Path | None = None  # the topmost folder that this call made

    def lock(self) -> None:
        """Refuse to go on if another process works in the folder; a folder that is not there yet is left to
        :meth:`claim`.

        Raises:
            UserError: it does.
        """
        if self.folder.is_dir() and get_rank() == 0:
            self._write(self._lock.acquire)

    def claim(self) -> None:
        """Make the folder and hold its lock.

        Raises:
            UserError: another process works there, or the folder cannot be made.
        """
        if get_rank() != 0:
            return
        missing = [folder for folder in (self.folder, *self.folder.parents) if not os.path.lexists(folder)]
        self._write(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        self.lock()
        self._made = missing[-1] if missing else None  # only now: another process may have been quicker

    def _write(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            raise UserError(
                f"The folder of the run, {self.folder}, cannot be written to: {error.strerror}. exp_root_dir=FOLDER "
                "names another place."
            ) from error

    def record_command(self) -> None:
        """Add the command line to ``cmd.txt``; a resumed run leaves one line for each start."""
        if get_rank() == 0:
            with open(self.folder / "cmd.txt", "a", encoding="utf-8") as file:
                file.write(f"python {shlex.join(sys.argv)}\n")

    def save_configs(self, config_path: str, cfg: Any, resumed: bool) -> None:
        """Write ``raw.yaml`` (the file as given) and ``parsed.yaml`` (everything resolved, with the command line).

        What an earlier start left there is renamed (``parsed.1.yaml``) if it says something else. A run that goes on
        in its folder keeps its ``raw.yaml``.
        """
        if get_rank() != 0:
            return
        folder = self.folder / CONFIGS
        folder.mkdir(exist_ok=True)
        raw, parsed = folder / RAW_NAME, folder / PARSED_NAME
        if not (resumed and raw.is_file()):
            content = Path(config_path).read_bytes()
            if not raw.is_file() or raw.read_bytes() != content:
                _keep(raw)
                write_bytes(raw, content)
        if not _says_the_same(parsed, cfg):
            _keep(parsed)
            dump_config(str(parsed), cfg)

    def has_checkpoint(self) -> bool:
        return any(self.folder.glob("ckpts/*.ckpt"))

    def clean_up(self) -> None:
        """Remove the folders that this call made, if it has not come to results."""
        if self._made is None or self.has_checkpoint() or any((self.folder / "save").glob("*")):
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = self.folder
        while folder != self._made:  # its parents, up to the first that was there before
            folder = folder.parent
            with contextlib.suppress(OSError):  # another run has come into it meanwhile
                folder.rmdir()

    def write_error_log(self, trace: str) -> Path | None:
        """Keep a traceback in the folder; ``None`` if there is no room."""
        path = self.folder / "error.log"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(trace, encoding="utf-8")
        except OSError:
            return None
        return path


def _says_the_same(saved: Path, cfg: Any) -> bool:
    """Whether a saved config is this one, but for the checkpoint that each starts from."""
    try:
        contents = [OmegaConf.to_container(c, resolve=False) for c in (OmegaConf.load(saved), cfg)]
    except Exception:  # not there, or damaged
        return False
    return contents[0] | {"resume": None} == contents[1] | {"resume": None}


def _keep(path: Path) -> None:
    """Rename a file to the first free ``<stem>.<n><suffix>``; nothing if it is not there."""
    if path.exists():
        n = 1
        while (kept := path.with_name(f"{path.stem}.{n}{path.suffix}")).exists():
            n += 1
        path.rename(kept)
