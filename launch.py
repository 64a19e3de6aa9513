"""One front door: train, validate, test or export what a YAML file describes.

    python launch.py --config configs/consistent4d.yaml --train [key=value ...]

Exit status: 0 done, 2 a mistake in the command, config or input, 1 an internal error, 130 interrupted, 143 terminated.
"""

import argparse
import contextlib
import difflib
import logging
import os
import shlex
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent
EXIT_OK, EXIT_INTERNAL, EXIT_USER, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143
MODES = ("train", "validate", "test", "export")

EPILOG = """\
overrides: key=value, with dots for nesting, as in
  trainer.max_steps=500 data.image_seq_path=clip.mp4 system.prompt_processor.prompt="a dog: sitting"
resume=FILE|FOLDER|last continues a run (FOLDER: of an earlier run; last: the newest with this config's name and tag).
checkpoint.every_n_minutes=2 is how often last.ckpt is renewed; the other keys of `checkpoint` are ModelCheckpoint's.
--train ends with a test pass; trainer.limit_test_batches=0 leaves it out.
"""


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the ``key=value`` overrides that follow them. Mistakes exit with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Train, validate, test or export what a YAML file describes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file of the experiment")
    parser.add_argument("--gpu", default="0", metavar="IDS", help="GPUs to use, as in 0 or 0,1 (default: %(default)s)")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--train", action="store_true", help="optimise, then render the test views")
    mode.add_argument("--validate", action="store_true", help="render the validation views of a checkpoint")
    mode.add_argument("--test", action="store_true", help="render the test views of a checkpoint")
    mode.add_argument("--export", action="store_true", help="write meshes or other assets of a checkpoint")
    parser.add_argument("--verbose", action="store_true", help="debug messages and full tracebacks")
    parser.add_argument("--typecheck", action="store_true", help="check annotated tensor shapes while running (slow)")
    arguments, extras = parser.parse_known_args(argv)
    for extra in extras:
        if extra.startswith("-"):
            flag = extra.split("=")[0]
            near = difflib.get_close_matches(flag, [o for a in parser._actions for o in a.option_strings], n=1)
            parser.error(f"unknown flag {flag}" + (f" (did you mean {near[0]}?)" if near else ""))
        if "=" not in extra:
            parser.error(f"cannot read '{extra}': overrides are written key=value")
    return arguments, extras


def select_devices(gpu: str) -> int:
    """Choose the visible GPUs (before torch is imported) and return how many were asked for."""
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or gpu
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return len(visible.split(","))


def let_idle_threads_sleep() -> None:
    """Tell OpenMP's threads to sleep between tasks (before torch is imported); a value of the user's own stays.

    By default they spin. On cores that other programs use as well, spinning threads take the time of those that have
    work to do: steps of many small operations then take up to 20 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def prepare_host() -> bool:
    """Make ``threestudio`` importable; return whether it is an upstream checkout in the working directory."""
    extern = REPOSITORY / "extern"
    here = Path.cwd()
    if not (here / "threestudio" / "__init__.py").is_file():
        sys.path.insert(0, str(extern))
        return False
    sys.path.insert(0, str(here))
    import threestudio.systems
    import threestudio.utils

    # what only this host has (checkpoints, resume) is found behind upstream's own modules
    for package in (threestudio.systems, threestudio.utils):
        package.__path__.append(str(extern / package.__name__.replace(".", "/")))
    return True


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stderr`` is at the moment, so that lines appear above a live progress bar."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class _Quiet(logging.Filter):
    """Drops remarks that say nothing about this run, or what its last line says anyway."""

    NOISE = (
        *("GPU available", "TPU available", "HPU available", "`Trainer.fit` stopped", "`weights_only` was not set"),
        *("💡", "Restoring states", "Restored all states", "Loaded model weights", "LOCAL_RANK: "),
        *("You are using a CUDA device", "Validation results will be saved", "Test results saved", "Export assets"),
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(self.NOISE)


def set_up_logging(verbose: bool) -> None:
    logger = logging.getLogger("pytorch_lightning")
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    if not verbose:
        handler.addFilter(_Quiet())
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|lightning_fabric\..*|torch\..*")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def hide_loading_bars() -> None:
    """No progress bars for reading weights into networks, which takes a moment; downloads keep theirs."""
    libraries = [sys.modules.get(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    hub = sys.modules.get("huggingface_hub.utils")
    had_bars = hub is not None and not hub.are_progress_bars_disabled()
    for library in libraries:
        if library is not None:
            library.disable_progress_bar()
    if had_bars:
        hub.enable_progress_bars()  # transformers switches them off with its own


def custom_folder() -> Path:
    """``custom/`` of the working directory, else the one beside this file."""
    folder = Path.cwd() / "custom"
    return folder if folder.is_dir() else REPOSITORY / "custom"


def load_extensions(threestudio: Any) -> dict[str, str]:
    """Import all extensions, say which, and return name -> reason of those that failed."""
    from threestudio.utils.custom_modules import load_custom_modules

    modules = load_custom_modules(custom_folder())
    failed = {module.name: module.reason for module in modules if module.error is not None}
    for module in modules:
        if module.error is not None:
            threestudio.warn(f"custom module {module.name} FAILED to import: {module.reason}")
            trace = "".join(traceback.format_exception(module.error))
            threestudio.debug(trace)
    threestudio.info(
        "custom modules: " + (", ".join(f"{m.name} (FAILED)" if m.error else m.name for m in modules) or "none")
    )
    if hasattr(threestudio, "failed_custom_modules"):
        threestudio.failed_custom_modules.update(failed)
    return failed


def find_class(threestudio: Any, name: str, key: str, failed: dict[str, str]) -> type:
    """``threestudio.find`` with the config key in the message."""
    from threestudio.utils.errors import ConfigError

    if not name:
        raise ConfigError(f"The config has no '{key}': it names the class to build.")
    try:
        return threestudio.find(name)
    except KeyError as error:
        text = str(error) if is_user_error(error) else f"No module is registered as '{name}'."
        broken = [f"  {module}: {reason}" for module, reason in failed.items() if reason not in text]
        if broken:
            text += "\nThese custom modules failed to import, so their names are missing:\n" + "\n".join(broken)
        raise ConfigError(f"{key}: {text}") from error


class Run:
    """One call of the launcher: config, data, system, trainer, and what they leave behind."""

    def __init__(self, arguments: argparse.Namespace, overrides: list[str], n_gpus: int) -> None:
        self.arguments = arguments
        self.overrides = overrides
        self.n_gpus = n_gpus
        self.mode = next(mode for mode in MODES if getattr(arguments, mode))
        self.started = time.time()
        self.trial_dir: Path | None = None
        self.fresh_trial = False
        self.cfg: Any = None
        self.is_upstream = False

    def execute(self) -> None:
        self.is_upstream = prepare_host()
        if self.arguments.typecheck:
            from threestudio.utils.custom_modules import list_custom_modules
            from threestudio.utils.typecheck import install_type_checks

            install_type_checks(["threestudio", *(path.stem for path in list_custom_modules(custom_folder()))])
        import threestudio

        set_up_logging(self.arguments.verbose)
        if self.is_upstream:
            threestudio.info(f"using threestudio {threestudio.__version__} of {Path.cwd()}")
        failed = load_extensions(threestudio)
        if not self.arguments.verbose:
            hide_loading_bars()
        self.read_config()
        trainer, system, data = self.build(threestudio, failed)
        self.drive(trainer, system, data)
        self.report(trainer)

    def read_config(self) -> None:
        """Load the config and check the checkpoint to resume from, before anything is written."""
        from threestudio.utils.config import load_config
        from threestudio.utils.errors import UserError
        from threestudio.utils.resume import check_resumable, resolve_resume
        from threestudio.utils.trainer_arguments import check_trainer

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
            from threestudio.utils.check import check_config

            check_config(self.cfg, training=self.mode == "train")
        self.trial_dir = Path(self.cfg.trial_dir)
        self.trial_dir.mkdir(parents=True, exist_ok=True)
        if self.mode == "train" and self.resume_status is None and any(self.trial_dir.glob("ckpts/*.ckpt")):
            import threestudio

            threestudio.warn(
                f"{self.trial_dir} has checkpoints of an earlier run, which this one replaces step by step "
                "(resume=last goes on with it instead; another tag= keeps both)."
            )
        self.fresh_trial = self.trial_dir.stat().st_ctime >= before - 1 and not any(self.trial_dir.iterdir())

    def build(self, threestudio: Any, failed: dict[str, str]) -> tuple[Any, Any, Any]:
        """Trainer, system and data module, in threestudio's order of construction."""
        import pytorch_lightning as pl
        import torch

        from threestudio.utils.arguments import construct
        from threestudio.utils.checkpoint_io import AtomicCheckpointIO
        from threestudio.utils.misc import get_rank

        cfg = self.cfg
        settings = dict(cfg.trainer)
        has_gpu = torch.cuda.is_available()
        settings.setdefault("accelerator", "gpu" if has_gpu else "cpu")
        if settings["accelerator"] == "cpu":
            self.choose_cpu(threestudio, has_gpu)
        settings.setdefault("devices", -1 if has_gpu and settings["accelerator"] != "cpu" else 1)
        settings.setdefault("enable_model_summary", self.arguments.verbose)
        settings.setdefault("inference_mode", False)

        pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=self.arguments.verbose)
        data = find_class(threestudio, cfg.data_type, "data_type", failed)(cfg.data)
        system = find_class(threestudio, cfg.system_type, "system_type", failed)(
            cfg.system, resumed=cfg.resume is not None
        )
        system.set_save_dir(os.path.join(cfg.trial_dir, "save"))

        checkpoint_io = AtomicCheckpointIO()
        callbacks: list[Any] = []
        loggers: list[Any] = []
        if settings.get("enable_progress_bar", True):
            from threestudio.utils.callbacks import CustomProgressBar

            callbacks.append(CustomProgressBar())
        if self.mode == "train":
            callbacks += self.training_callbacks(checkpoint_io)
            loggers += self.loggers(system)
        else:
            settings["enable_checkpointing"] = False
        arguments = {"callbacks": callbacks, "logger": loggers or False, "plugins": [checkpoint_io], **settings}
        return construct("trainer", pl.Trainer, **arguments), system, data

    @staticmethod
    def choose_cpu(threestudio: Any, has_gpu: bool) -> None:
        from threestudio.utils import misc

        threestudio.info("running on the CPU" + ("" if has_gpu else " (no GPU found)"))
        if hasattr(misc, "set_device"):
            misc.set_device("cpu")

    def training_callbacks(self, checkpoint_io: Any) -> list[Any]:
        from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

        from threestudio.systems.rng import RandomState
        from threestudio.utils.callbacks import CodeSnapshotCallback, ConfigSnapshotCallback
        from threestudio.utils.checkpoint_io import LastCheckpoint

        folder = os.path.join(self.cfg.trial_dir, "ckpts")
        settings = dict(self.cfg.checkpoint)
        minutes = settings.pop("every_n_minutes", 2)
        keep_last = settings.pop("save_last", True)
        settings.setdefault("enable_version_counter", False)
        callbacks = [
            RandomState(),
            LearningRateMonitor(logging_interval="step"),
            CodeSnapshotCallback(os.path.join(self.cfg.trial_dir, "code"), use_version=False),
            ConfigSnapshotCallback(
                self.arguments.config, self.cfg, os.path.join(self.cfg.trial_dir, "configs"), use_version=False
            ),
            ModelCheckpoint(dirpath=folder, **settings),
        ]
        if keep_last:
            callbacks.append(LastCheckpoint(folder, minutes, checkpoint_io))
        return callbacks

    def loggers(self, system: Any) -> list[Any]:
        from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

        return [
            TensorBoardLogger(self.cfg.trial_dir, name="tb_logs"),
            CSVLogger(self.cfg.trial_dir, name="csv_logs"),
            *system.get_loggers(),
        ]

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
            import threestudio

            threestudio.warn(f"--{self.mode} without resume=...: the model is as it was initialised.")
        if self.mode == "export":
            trainer.predict(system, datamodule=data, ckpt_path=resume)
        elif self.mode == "validate":
            trainer.validate(system, datamodule=data, ckpt_path=resume, verbose=False)
        else:
            trainer.test(system, datamodule=data, ckpt_path=resume, verbose=False)

    def record_command(self) -> None:
        """Add the command line to ``cmd.txt``; a resumed run leaves one line for each start."""
        from threestudio.utils.misc import get_rank

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
    from omegaconf import OmegaConf

    with contextlib.suppress(Exception):
        value = OmegaConf.to_container(OmegaConf.load(path), resolve=False).get(key)
        return str(value) if value is not None else None
    return None


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone is what the user needs: a mistake in config, input or surroundings."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"UserError", "OmegaConfBaseException", "YAMLError", "MisconfigurationException"}:
        return True
    import errno

    no_room = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return no_room or isinstance(error, (FileNotFoundError, PermissionError))


def explain(error: BaseException, run: Run, verbose: bool) -> int:
    """Print what went wrong and return the exit status."""
    trace = "".join(traceback.format_exception(error))
    if verbose:
        print(trace, file=sys.stderr)
    if is_user_error(error):
        run.clean_up()
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER
    log = run.write_error_log(trace)
    where = f"the traceback is in {log}" if log else "run again with --verbose for the traceback"
    first = (str(error).strip().splitlines() or [""])[0]
    print(f"internal error: {type(error).__name__}: {first} ({where})", file=sys.stderr, flush=True)
    return EXIT_INTERNAL


def main(argv: list[str] | None = None) -> int:
    arguments, overrides = parse_arguments(sys.argv[1:] if argv is None else argv)
    let_idle_threads_sleep()
    run = Run(arguments, overrides, select_devices(arguments.gpu))
    try:
        run.execute()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as leaving:  # Lightning turns an interrupt into one
        if isinstance(leaving.__context__, KeyboardInterrupt):
            where = f": continue with resume={run.trial_dir}" if run.trial_dir else ""
            print(f"interrupted{where}", file=sys.stderr, flush=True)
            return EXIT_INTERRUPTED
        if type(leaving).__name__ == "SIGTERMException":
            return EXIT_TERMINATED
        raise
    except Exception as error:  # the one place where every failure becomes a message and an exit status
        return explain(error, run, arguments.verbose)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
