"""Lightning callbacks of the launcher: snapshots of code and config, and the progress display."""

import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn

from threestudio.utils.atomic import write_bytes, write_text
from threestudio.utils.config import dump_config


class VersionedCallback(pl.Callback):
    """Base of callbacks that write to ``<save_root>/version_<n>``, or to ``save_root`` itself.

    Args:
        save_root: folder to write to.
        version: number or name of the version; ``None`` takes the first number that is free.
        use_version: ``False`` writes to ``save_root``.
    """

    def __init__(self, save_root: str, version: int | str | None = None, use_version: bool = True) -> None:
        self.save_root = save_root
        self.use_version = use_version
        self._version = version

    @property
    def version(self) -> int | str:
        if self._version is None:
            taken = [p.name.split("_")[-1] for p in Path(self.save_root).glob("version_*") if p.is_dir()]
            self._version = max((int(n) for n in taken if n.isdigit()), default=-1) + 1
        return self._version

    @property
    def savedir(self) -> str:
        if not self.use_version:
            return self.save_root
        name = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return os.path.join(self.save_root, name)


class CodeSnapshotCallback(VersionedCallback):
    """Copies the code of the run: what git tracks or would track under the working directory, and the extensions.

    ``load/`` and files above one megabyte stay out. Without git, the Python and YAML files are taken. A snapshot that
    fails is a warning, never the end of a run.
    """

    MAX_BYTES = 2**20
    SKIPPED = ("load", "outputs")

    def list_files(self) -> list[str]:
        """Paths relative to the working directory, sorted."""
        listed = self._git_files()
        if listed is None:
            listed = self._files_of(".", recursive=False)
            for folder in ("configs", "custom", "extern", "threestudio"):
                listed += self._files_of(folder)
        else:
            listed += self._files_of("custom")  # upstream's .gitignore hides extensions
        kept = {os.path.normpath(f) for f in listed if f.split("/", 1)[0] not in self.SKIPPED}
        return sorted(f for f in kept if os.path.isfile(f) and os.path.getsize(f) <= self.MAX_BYTES)

    @staticmethod
    def _git_files() -> list[str] | None:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            result = subprocess.run(command, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        return [name for name in result.stdout.decode(errors="surrogateescape").split("\0") if name]

    @staticmethod
    def _files_of(folder: str, recursive: bool = True) -> list[str]:
        found: list[str] = []
        for root, folders, files in os.walk(folder, followlinks=True):
            folders[:] = [d for d in folders if recursive and not d.startswith(".") and d != "__pycache__"]
            found += [os.path.join(root, f) for f in files if f.endswith((".py", ".yaml", ".yml", ".txt", ".md"))]
        return found

    @rank_zero_only
    def save_code_snapshot(self) -> None:
        for name in self.list_files():
            target = os.path.join(self.savedir, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(name, target)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        try:
            self.save_code_snapshot()
        except OSError as error:
            rank_zero_warn(f"The code snapshot is incomplete: {error}.")


class ConfigSnapshotCallback(VersionedCallback):
    """Writes ``raw.yaml`` (the file as given) and ``parsed.yaml`` (everything resolved, with the command line)."""

    def __init__(
        self,
        config_path: str,
        config: Any,
        save_root: str,
        version: int | str | None = None,
        use_version: bool = True,
    ) -> None:
        super().__init__(save_root, version, use_version)
        self.config_path = config_path
        self.config = config

    @rank_zero_only
    def save_config_snapshot(self) -> None:
        os.makedirs(self.savedir, exist_ok=True)
        folder = os.path.realpath(self.savedir)
        if os.path.dirname(os.path.realpath(self.config_path)) != folder:  # a run restarted from its own snapshot
            write_bytes(os.path.join(self.savedir, "raw.yaml"), Path(self.config_path).read_bytes())
        dump_config(os.path.join(self.savedir, "parsed.yaml"), self.config)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save_config_snapshot()


class _Pace:
    """Steps a second over the last seconds, and the time that is left at that pace."""

    WINDOW = 20.0  # seconds that weigh most

    def __init__(self, done: int) -> None:
        self.last = (time.monotonic(), done)
        self.speed: float | None = None

    def update(self, done: int) -> None:
        now = time.monotonic()
        elapsed, steps = now - self.last[0], done - self.last[1]
        if elapsed <= 0 or steps <= 0:
            return
        keep = 0.0 if self.speed is None else math.exp(-elapsed / self.WINDOW)
        self.speed = steps / elapsed * (1 - keep) + (self.speed or 0.0) * keep
        self.last = (now, done)

    def left(self, done: int, total: int | None) -> float | None:
        return None if not total or not self.speed else max(total - done, 0) / self.speed


def format_seconds(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``; dashes for an unknown time."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Stage:
    """One row of the display."""

    def __init__(self, name: str, total: int | None, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self.pace = _Pace(done)
        self.shown = time.monotonic() if name == "validate" else 0.0
        self.task: Any = None

    def text(self, loss: float | None) -> str:
        speed = "-" if self.pace.speed is None else f"{self.pace.speed:.3g}"
        left = format_seconds(self.pace.left(self.done, self.total))
        return f"{speed} it/s  left {left}" + ("" if loss is None else f"  loss {loss:.4g}")


class CustomProgressBar(ProgressBar):
    """Progress with steps a second, time left and the loss: a rich bar in a terminal, a line now and then in a log.

    The loss is read back from the device only when something is shown, a few times a second at most.
    """

    TERMINAL_SECONDS = 0.25
    LOG_SECONDS = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Any = None
        self._stages: dict[str, _Stage] = {}
        self._loss: float | None = None
        self._is_terminal = sys.stderr.isatty()

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def _begin(self, name: str, total: float, done: int = 0) -> None:
        if not self._enabled:
            return
        count = int(total) if math.isfinite(total) and total > 0 else None
        stage = self._stages[name] = _Stage(name, count, done)
        if not self._is_terminal:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
        stage.task = self._progress.add_task(name, total=count, completed=done, text="")

    def _advance(self, name: str, done: int, loss: Any = None) -> None:
        stage = self._stages.get(name)
        if stage is None:
            return
        stage.done = done
        now = time.monotonic()
        finished = stage.total is not None and done >= stage.total and (self._is_terminal or name != "validate")
        if not finished and now - stage.shown < (self.TERMINAL_SECONDS if self._is_terminal else self.LOG_SECONDS):
            return
        stage.shown = now
        stage.pace.update(done)
        if loss is not None:
            self._loss = float(loss)
        text = stage.text(self._loss if name == "train" else None)
        if self._progress is not None:
            self._progress.update(stage.task, completed=done, text=text)
        else:
            of = "" if stage.total is None else f"/{stage.total} ({100 * done // stage.total}%)"
            print(f"{name} {done}{of}  {text}", file=sys.stderr, flush=True)

    def _end(self, name: str) -> None:
        stage = self._stages.pop(name, None)
        if self._progress is None:
            return
        if stage is not None and name == "validate" and "train" in self._stages:
            self._progress.remove_task(stage.task)
        if not self._stages:
            self._progress.stop()
            self._progress = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self._begin("train", float(total), trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._advance("train", trainer.global_step, loss if isinstance(loss, (torch.Tensor, float)) else None)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end("train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin("validate", float(self.total_val_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if not trainer.sanity_checking:
            self._advance("validate", args[2] + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end("validate")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("test", float(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._advance("test", args[2] + 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end("test")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("export", float(sum(trainer.num_predict_batches)))

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._advance("export", args[2] + 1)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end("export")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stages.clear()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class ProgressCallback(pl.Callback):
    """Keeps one line of text about the progress in a file, for a user interface that polls it."""

    def __init__(self, save_path: str) -> None:
        self.save_path = save_path

    @rank_zero_only
    def write(self, message: str) -> None:
        write_text(self.save_path, message)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write("Training starts")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.write(f"Training {trainer.global_step}/{trainer.max_steps}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write("Rendering validation images")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write("Rendering the result")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write("Exporting")
