"""One front door: train, validate, test or export what a YAML file describes.

    python launch.py --config configs/consistent4d.yaml --train [key=value ...]

Exit status: 0 done, 2 a mistake in the command, config or input, 1 an internal error, 130 interrupted, 143 terminated.
"""

import os
import signal


def leave_at_once(signum: int, frame: object) -> None:
    """Ctrl-C while libraries are imported and parts are built: nothing is written yet, and imports may swallow it."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_at_once)

import argparse  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent

EPILOG = """\
overrides: key=value, with dots for nesting; text is taken as it stands, other values are YAML, null is no value, as in
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
    parser.add_argument(
        "--gpu", default="0", type=gpu_ids, metavar="IDS", help="GPUs to use, as in 0 or 0,1 (default: %(default)s)"
    )
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
            import difflib

            flag = extra.split("=")[0]
            near = difflib.get_close_matches(flag, [o for a in parser._actions for o in a.option_strings], n=1)
            parser.error(f"unknown flag {flag}" + (f" (did you mean {near[0]}?)" if near else ""))
        if "=" not in extra:
            parser.error(f"cannot read '{extra}': overrides are written key=value")
    return arguments, extras


def gpu_ids(text: str) -> str:
    """What ``--gpu`` takes: different numbers (or UUIDs), separated by commas; ``-1`` for none."""
    ids = [part.strip() for part in text.split(",")]
    if text.strip() != "-1" and not all(re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", part) for part in ids):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of GPUs: write numbers, as in 0 or 0,1")
    if len(set(ids)) < len(ids):
        raise argparse.ArgumentTypeError(f"'{text}' names a GPU twice")
    return ",".join(ids)


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

    # what only this host has (launching, checkpoints, resume) is found behind upstream's own modules
    for package in (threestudio, threestudio.systems, threestudio.utils):
        package.__path__.append(str(extern / package.__name__.replace(".", "/")))
    return True


def main(argv: list[str] | None = None) -> int:
    arguments, overrides = parse_arguments(sys.argv[1:] if argv is None else argv)
    let_idle_threads_sleep()
    n_gpus = select_devices(arguments.gpu)
    try:
        is_upstream = prepare_host()
        from threestudio.launching.main import main as launch
    except ImportError as error:  # a package that is not installed
        if arguments.verbose:
            raise
        print(f"error: threestudio cannot be imported: {error} (--verbose shows where)", file=sys.stderr)
        return 2
    return launch(arguments, overrides, n_gpus, is_upstream)


if __name__ == "__main__":
    sys.exit(main())
