"""One call of the launcher: config, data, system, trainer, and what they leave behind."""

import argparse
import contextlib
import difflib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf

import threestudio
from threestudio.launching.extensions import find_class, load_extensions
from threestudio.launching.logs import hide_loading_bars, set_up_logging
from threestudio.launching.trainer import build_trainer, trainer_settings
from threestudio.utils.config import load_config
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_rank
from threestudio.utils.resume import check_resumable, resolve_resume
from threestudio.utils.trainer_arguments import check_trainer

MODES = ("train", "validate", "test", "export")


class Run:
    """One call of the launcher.

    Args:
        arguments: the flags of ``launch.py``.
        overrides: ``key=value`` arguments.
        n_gpus: how many GPUs were asked for.
        is_upstream: the host is an upstream checkout in the working directory.
    """

    def __init__(self, arguments: argparse.Namespace, overrides: list[str], n_gpus: int, is_upstream: bool) -> None:
        self.arguments = arguments
        self.overrides = overrides
        self.n_gpus = n_gpus
        self.is_upstream = is_upstream
        self.mode = next(mode for mode in MODES if getattr(arguments, mode))
        self.started = time.time()
        self.trial_dir: Path | None = None
        self.fresh_trial = False
        self.cfg: Any = None

    def execute(self) -> None:
        verbose = self.arguments.verbose
        set_up_logging(verbose)
        if self.is_upstream:
            threestudio.info(f"using threestudio {threestudio.__version__} of {Path.cwd()}")
        failed = load_extensions()
        if not verbose:
            hide_loading_bars()
        self.read_config()
        trainer, system, data = self.build(failed)
        self.drive(trainer, system, data)
        self.report(trainer)

    def read_config(self) -> None:
        """Load the config and check the checkpoint to resume from, before anything is written."""
        config_path = self.arguments.config
        if not os.path.isfile(config_path):
            raise UserError(f"The config file '{config_path}' does not exist.{_near_file(config_path)}")
        overrides = [o for o in self.overrides if not o.startswith("resume=")]
        requested = [o.partition("=")[2] for o in self.overrides if o.startswith("resume=")]
        extra: dict[str, Any] = {"n_gpus": self.n_gpus}
        self.resume_status: tuple[int, int] | None = None
        value = requested[-1] if requested else _yaml_value(config_path, "resume")
        if value and value != "null":
            resume = resolve_resume(value, config_path, overrides)
            self.resume_status = check_resumable(resume.checkpoint, training=self.mode == "train")
            extra.update(resume.overrides(), resume=resume.checkpoint)
        before = time.time()
        self.cfg = load_config(config_path, cli_args=overrides, **extra)
        check_trainer(self.cfg)
        if not self.is_upstream:
            from threestudio.utils.check import check_config  # imports what upstream lacks

            check_config(self.cfg, training=self.mode == "train")
        self.trial_dir = Path(self.cfg.trial_dir)
        self.trial_dir.mkdir(parents=True, exist_ok=True)
        if self.mode == "train" and self.resume_status is None and any(self.trial_dir.glob("ckpts/*.ckpt")):
            threestudio.warn(
                f"{self.trial_dir} has checkpoints of an earlier run, which this one replaces step by step "
                "(resume=last goes on with it instead; another tag= keeps both)."
            )
        self.fresh_trial = self.trial_dir.stat().st_ctime >= before - 1 and not any(self.trial_dir.iterdir())

    def build(self, failed: dict[str, str]) -> tuple[Any, Any, Any]:
        """Trainer, system and data module, in threestudio's order of construction."""
        cfg = self.cfg
        settings = trainer_settings(cfg, self.arguments.verbose)
        pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=self.arguments.verbose)
        data = find_class(cfg.data_type, "data_type", failed)(cfg.data)
        system = find_class(cfg.system_type, "system_type", failed)(cfg.system, resumed=cfg.resume is not None)
        system.set_save_dir(os.path.join(cfg.trial_dir, "save"))
        trainer = build_trainer(cfg, settings, self.arguments.config, system, training=self.mode == "train")
        return trainer, system, data

    def drive(self, trainer: Any, system: Any, data: Any) -> None:
        """Run the mode."""
        resume = self.cfg.resume
        if self.mode == "train":
            self.record_command()
            trainer.fit(system, datamodule=data, ckpt_path=resume)
            if trainer.limit_test_batches != 0:
                trainer.test(system, datamodule=data, verbose=False)
            return
        if self.resume_status is not None:
            system.set_resume_status(*self.resume_status)
        else:
            threestudio.warn(f"--{self.mode} without resume=...: the model is as it was initialised.")
        if self.mode == "export":
            trainer.predict(system, datamodule=data, ckpt_path=resume)
        elif self.mode == "validate":
            trainer.validate(system, datamodule=data, ckpt_path=resume, verbose=False)
        else:
            trainer.test(system, datamodule=data, ckpt_path=resume, verbose=False)

    def record_command(self) -> None:
        """Add the command line to ``cmd.txt``; a resumed run leaves one line for each start."""
        if get_rank() == 0:
            with open(self.trial_dir / "cmd.txt", "a", encoding="utf-8") as file:
                file.write(f"python {shlex.join(sys.argv)}\n")

    def report(self, trainer: Any) -> None:
        """The last line: where the results are, and the videos that this call made."""
        if not trainer.is_global_zero:
            return
        save = self.trial_dir / "save"
        videos = [p for p in sorted(save.rglob("*")) if p.suffix in (".mp4", ".webm", ".gif")]
        made = [str(p.relative_to(self.trial_dir)) for p in videos if p.stat().st_mtime >= self.started - 1]
        print(f"results in {self.trial_dir}" + (f": {', '.join(made)}" if made else ""), flush=True)

    def clean_up(self) -> None:
        """Remove the folder of a run that failed before it wrote anything."""
        if self.fresh_trial and self.trial_dir is not None:
            with contextlib.suppress(OSError):
                self.trial_dir.rmdir()

    def write_error_log(self, trace: str) -> Path | None:
        """Keep the traceback in the trial folder; ``None`` if there is no such folder or no room."""
        if self.trial_dir is None:
            return None
        path = self.trial_dir / "error.log"
        try:
            path.write_text(trace, encoding="utf-8")
        except OSError:
            return None
        return path


def _near_file(path: str) -> str:
    folder = Path(path).parent
    names = [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []
    near = difflib.get_close_matches(Path(path).name, names, n=1)
    return f" Did you mean '{folder / near[0]}'?" if near else ""


def _yaml_value(path: str, key: str) -> str | None:
    """A top-level text value of a YAML file, read without resolving anything; errors are left to the config loader."""
    with contextlib.suppress(Exception):
        value = OmegaConf.to_container(OmegaConf.load(path), resolve=False).get(key)
        return str(value) if value is not None else None
    return None
