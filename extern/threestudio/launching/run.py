"""One call of the launcher: config, data, system, trainer, and what they leave behind."""

import argparse
import contextlib
import difflib
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf

import threestudio
from threestudio.launching.extensions import find_class, load_extensions
from threestudio.launching.logs import hide_loading_bars, set_up_logging
from threestudio.launching.own_config import changes_since, read_yaml
from threestudio.launching.resume import Resume, resolve_resume
from threestudio.launching.trainer import build_trainer, trainer_settings
from threestudio.launching.trial import Trial
from threestudio.utils.config import ExperimentConfig, load_config
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_rank
from threestudio.utils.overrides import parse_overrides
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
        self.cfg: Any = None
        self.resume: Resume | None = None
        self.trial: Trial | None = None

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
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from now on there is something to tidy up
        self.trial.claim()
        self.drive(trainer, system, data)
        self.report(trainer)

    def read_config(self) -> None:
        """Everything that can be checked before parts are built; writes nothing."""
        path = self.arguments.config
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"The config file '{path}' is not a file but a folder, a pipe or a device.")
        if not os.path.isfile(path):
            raise UserError(f"The config file '{path}' does not exist.{_near_file(path)}")
        overrides = [o for o in self.overrides if not o.startswith("resume=")]
        requested = [o.partition("=")[2] for o in self.overrides if o.startswith("resume=")]
        value = requested[-1] if requested else _yaml_value(path, "resume")
        if value and value != "null":
            self.cfg = self.config_of_resumed_run(value, overrides)
        else:
            self.cfg = load_config(path, cli_args=overrides, n_gpus=self.n_gpus)
        check_trainer(self.cfg)
        if not self.is_upstream:
            from threestudio.utils.check import check_config  # imports what upstream lacks

            check_config(self.cfg, training=self.mode == "train")
        self.trial = Trial(Path(self.cfg.trial_dir))
        self.trial.lock()
        if self.mode == "train" and self.resume is None and self.trial.has_checkpoint():
            threestudio.warn(
                f"{self.trial.folder} has checkpoints of an earlier run, which this one replaces step by step "
                "(resume=last goes on with it instead; another tag= keeps both)."
            )

    def config_of_resumed_run(self, value: str, overrides: list[str]) -> Any:
        """The run's own settings, what has changed in the config file since, and the command line over both."""
        path = self.arguments.config
        given = read_yaml(path)
        changed = parse_overrides(overrides, given, ExperimentConfig)
        self.resume = resume = resolve_resume(value, OmegaConf.merge(given, changed), training=self.mode == "train")
        own = resume.own_config()
        if own is None:
            base = OmegaConf.merge(given, resume.place())
        else:
            threestudio.info(f"{resume.checkpoint} (step {resume.step}) comes with the settings of its run")
            base = own
            for key, new in changes_since(resume.trial, own, given).items():
                OmegaConf.update(base, key, new, force_add=True)
                threestudio.info(f"{key}={new}: changed in {path} since the run began")
            self.leave_limits(base, given, OmegaConf.select(changed, "trainer.max_steps") is not None)
        if changed.get("tag", base.get("tag")) != base.get("tag") and "timestamp" not in changed:
            base.timestamp = None  # a run of another name
        text = OmegaConf.to_yaml(base)
        return load_config(text, cli_args=overrides, from_string=True, n_gpus=self.n_gpus, resume=resume.checkpoint)

    def leave_limits(self, own: Any, given: Any, told: bool) -> None:
        """Drop limits of the run's earlier calls that would leave this one nothing to do; the command line's stay."""
        limits = own.get("trainer") or {}
        if self.mode != "train":
            key = {"validate": "limit_val_batches", "test": "limit_test_batches", "export": "limit_predict_batches"}
            if limits.get(key[self.mode]) == 0:
                limits.pop(key[self.mode])
            return
        before, now = limits.get("max_steps"), OmegaConf.select(given, "trainer.max_steps")
        if told or not isinstance(before, int) or not isinstance(now, int):
            return
        if 0 < before <= self.resume.step < now:
            threestudio.info(f"the run has reached its {before} steps: going on to trainer.max_steps={now} of the file")
            limits.max_steps = now

    def build(self, failed: dict[str, str]) -> tuple[Any, Any, Any]:
        """Trainer, system and data module, in threestudio's order of construction."""
        cfg = self.cfg
        settings = trainer_settings(cfg, self.arguments.verbose)
        pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=self.arguments.verbose)
        data = find_class(cfg.data_type, "data_type", failed)(cfg.data)
        system = find_class(cfg.system_type, "system_type", failed)(cfg.system, resumed=cfg.resume is not None)
        system.set_save_dir(os.path.join(cfg.trial_dir, "save"))
        trainer = build_trainer(cfg, settings, system, training=self.mode == "train")
        return trainer, system, data

    def drive(self, trainer: Any, system: Any, data: Any) -> None:
        """Run the mode."""
        checkpoint = self.cfg.resume
        evaluate = {"export": trainer.predict, "validate": trainer.validate}.get(self.mode, trainer.test)
        quiet = {} if self.mode == "export" else {"verbose": False}
        if self.mode == "train" and not self.is_finished(trainer):
            self.trial.record_command()
            going_on = self.resume is not None and self.resume.trial == self.trial.folder.resolve()
            self.trial.save_configs(self.arguments.config, self.cfg, going_on)
            trainer.fit(system, datamodule=data, ckpt_path=checkpoint)
            if trainer.limit_test_batches != 0:
                trainer.test(system, datamodule=data, verbose=False)
            return
        if self.resume is not None:
            system.set_resume_status(self.resume.epoch, self.resume.step)
        else:
            threestudio.warn(f"--{self.mode} without resume=...: the model is as it was initialised.")
        if self.mode != "train" or trainer.limit_test_batches != 0:
            evaluate(system, datamodule=data, ckpt_path=checkpoint, **quiet)

    def is_finished(self, trainer: Any) -> bool:
        """Whether the run that is to go on has all its steps; says so."""
        if self.resume is None or not 0 <= trainer.max_steps <= self.resume.step:
            return False
        then = "rendering the test views" if trainer.limit_test_batches != 0 else "nothing to do"
        threestudio.warn(
            f"{self.resume.checkpoint} is at step {self.resume.step} and trainer.max_steps is {trainer.max_steps}: no "
            f"training, {then}. trainer.max_steps={2 * max(self.resume.step, 1)} would train on."
        )
        return True

    def report(self, trainer: Any) -> None:
        """The last line: where the results are, and the videos that this call made."""
        if not trainer.is_global_zero:
            return
        folder = self.trial.folder
        videos = [p for p in sorted((folder / "save").rglob("*")) if p.suffix in (".mp4", ".webm", ".gif")]
        made = [str(p.relative_to(folder)) for p in videos if p.stat().st_mtime >= self.started - 1]
        print(f"results in {folder}" + (f": {', '.join(made)}" if made else ""), flush=True)

    def say_how_to_go_on(self) -> str:
        """Advice after an interrupt."""
        if self.mode != "train":
            return ""
        if self.trial is not None and self.trial.has_checkpoint():
            return f": continue with {shlex.quote(f'resume={self.trial.folder}')}"
        return ": nothing was saved yet; the same command starts anew"

    def clean_up(self) -> None:
        """Leave no folder behind where nothing came of the run."""
        if self.trial is not None:
            self.trial.clean_up()

    def write_error_log(self, trace: str) -> Path | None:
        """Keep a traceback in the trial folder; ``None`` if that is not known yet, or full."""
        return None if self.trial is None else self.trial.write_error_log(trace)


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
