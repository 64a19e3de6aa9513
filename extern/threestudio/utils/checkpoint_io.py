"""Checkpoints that survive: written beside the old one, synced, read back, then renamed over it.

``AtomicCheckpointIO`` is the Lightning plugin that does the writing and reading; ``LastCheckpoint`` keeps ``last.ckpt``
fresh.
"""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from threestudio.utils.atomic import WriteError, atomic_file
from threestudio.utils.errors import CheckpointError
from threestudio.utils.weights import read_checkpoint

LAST_NAME = "last.ckpt"

_PLAIN_TYPES = (torch.Tensor, str, bytes, bool, int, float, complex, type(None), torch.Size, torch.dtype, torch.device)


def to_plain(value: Any, path: str = "") -> Any:
    """Tensors and primitives only: what ``torch.load(weights_only=True)`` gives back.

    OmegaConf nodes become plain containers, numpy numbers Python numbers, paths text.

    Raises:
        CheckpointError: an entry is of another type; the message says which.
    """
    if type(value) in _PLAIN_TYPES or isinstance(value, (torch.Tensor, bool)):
        return value
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if isinstance(value, Mapping):
        return {to_plain(k, path): to_plain(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [to_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (str, int, float)):  # enumerations and other subclasses
        return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))
    raise CheckpointError(
        f"The checkpoint entry '{path}' is a {type(value).__module__}.{type(value).__qualname__}. Checkpoints hold "
        "tensors, numbers, text and plain containers only, so that they open without running code: store it as these."
    )


class _WatchedFile:
    """A binary file that remembers why a write failed; torch's zip writer reports such failures without the reason."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "wb")  # noqa: SIM115 - closed by write_atomically
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_atomically(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Save ``content`` (see :func:`to_plain`) so that ``path`` holds the old or the new file, whole, at every moment.

    The file is written under a temporary name in the same folder, synced, opened again and compared with what was to
    be saved, then renamed; the folder is synced last. If anything fails, the temporary file is removed and ``path`` is
    untouched.

    Raises:
        CheckpointError: no space left, another error of the file system, an entry that cannot be stored, or a file that
            does not read back.
    """
    target = Path(path)
    plain = to_plain(content)
    try:
        with atomic_file(target, sync=True) as temporary:
            _write(plain, temporary)
            _verify(plain, temporary)
    except WriteError as error:
        reason = error.reason or str(error)
        raise CheckpointError(
            f"{reason[0].upper()}{reason[1:]}: the checkpoint '{os.path.relpath(target)}' cannot be written. Earlier "
            "checkpoints are intact. Free some space or set exp_root_dir to another disk, then continue with "
            + shlex.quote(f"resume={os.path.relpath(target.parent.parent)}")
            + "."
        ) from error


def _write(plain: Mapping[str, Any], temporary: Path) -> None:
    watched = _WatchedFile(temporary)
    try:
        torch.save(plain, watched)
        watched.flush()
    except Exception as error:
        if watched.failure is not None and not isinstance(error, OSError):
            raise watched.failure from error
        raise
    finally:
        with contextlib.suppress(OSError):
            watched.file.close()


def _verify(plain: Mapping[str, Any], temporary: Path) -> None:
    try:
        found = torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any failure to open it means that it must not replace the last good one
        raise CheckpointError(f"The checkpoint that was just written does not read back: {error}") from error
    wanted = {k: tuple(v.shape) for k, v in plain.get("state_dict", {}).items() if isinstance(v, torch.Tensor)}
    got = {k: tuple(v.shape) for k, v in found.get("state_dict", {}).items() if isinstance(v, torch.Tensor)}
    if set(found) != set(plain) or wanted != got:
        raise CheckpointError("The checkpoint that was just written does not hold what was saved; the old one is kept.")


def load_whole(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Everything in a checkpoint, without running code from the file.

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint.
    """
    name = os.fspath(path)
    try:
        parts = read_checkpoint(name, map_location)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"The checkpoint '{name}' is damaged or incomplete: {reason}") from error
    rest = parts.pop("rest")
    return {**rest, **parts}


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint plugin on top of :func:`write_atomically` and the safe reader."""

    def __init__(self) -> None:
        self.last_saved: tuple[int, str] | None = None  # (global step, path) of the newest full checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(checkpoint, path)
        if "optimizer_states" in checkpoint:
            self.last_saved = (int(checkpoint.get("global_step", -1)), os.fspath(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole checkpoint on the CPU (or ``map_location``); code in the file never runs, despite the argument."""
        return load_whole(path, "cpu" if map_location is None else map_location)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class LastCheckpoint(Checkpoint):
    """Keeps ``<dirpath>/last.ckpt`` up to date: every few minutes, with other checkpoints, at the end, on a signal.

    The first Ctrl-C finishes the step that is being computed, saves and stops; the second stops at once. SIGTERM saves
    too.

    Args:
        dirpath: the folder of the checkpoints.
        every_n_minutes: time between two saves; ``None`` or 0 leaves only the other occasions.
        io: the plugin that writes; it knows when another callback has just saved the same state, which is then linked.
    """

    STEPS_BETWEEN_AGREEMENTS = 20

    def __init__(self, dirpath: str | os.PathLike, every_n_minutes: float | None, io: AtomicCheckpointIO) -> None:
        super().__init__()
        self.path = Path(dirpath) / LAST_NAME
        self.interval = float(every_n_minutes or 0) * 60.0
        self.io = io
        self._saved_step = -1
        self._dumped_step = -1  # known on every process; only the first one writes files
        self._last_time = time.monotonic()
        self._interrupted = False
        self._old_handler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_time = time.monotonic()
        self._saved_step = trainer.global_step if self.path.exists() else -1
        with contextlib.suppress(ValueError):  # not in the main thread: leave the signal as it is
            self._old_handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\ninterrupted: saving after this step (once more to stop at once)\n")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._dumped_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        due = self.interval > 0 and time.monotonic() - self._last_time >= self.interval
        stop = self._interrupted
        if trainer.world_size > 1:  # clocks and signals differ between processes: all follow the first, now and then
            if trainer.global_step % self.STEPS_BETWEEN_AGREEMENTS:
                due = stop = False
            else:
                due, stop = trainer.strategy.broadcast((due, stop))
        if due or stop:
            self.save(trainer)
        else:
            self.follow(trainer)
        if stop:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.follow(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.training:
            self.follow(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)
        self._restore_handler()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handler()
        if isinstance(exception, SIGTERMException):  # raised between two steps, so the state is whole
            self.save(trainer)

    def _restore_handler(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
            self._old_handler = None

    def follow(self, trainer: pl.Trainer) -> None:
        """Let ``last.ckpt`` be the checkpoint of this step that another callback has just written, if there is one."""
        if self._dumped_step == trainer.global_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Bring ``last.ckpt`` to the present step; does nothing if it is there already."""
        if self._saved_step == trainer.global_step:
            return
        newest = self.io.last_saved
        linked = newest is not None and newest[0] == trainer.global_step and self._link(Path(newest[1]))
        if trainer.world_size > 1:
            linked = trainer.strategy.broadcast(linked)
        if not linked:
            trainer.save_checkpoint(self.path)
        self._saved_step = trainer.global_step
        self._last_time = time.monotonic()

    def _link(self, source: Path) -> bool:
        try:
            with atomic_file(self.path, sync=True) as temporary:
                os.link(source, temporary)
        except (OSError, WriteError):  # a file system without hard links: write it again instead
            return False
        return True
