"""``python -m threestudio_4d.evaluation.benchmark``: train configs on clips with ground truth, and report.

    python -m threestudio_4d.evaluation.benchmark SPEC.yaml [options] [key=value ...]
    python -m threestudio_4d.evaluation.benchmark --config FILE... --data FOLDER [options] [key=value ...]

--data, --objects, --seeds, --protocol and --metrics replace what a benchmark file says; overrides are added to its own.

The same command again goes on where it was stopped, and writes the report anew if there is nothing left to do.
Exit status: 0 all runs done, 1 some failed, 2 a mistake in the command or the benchmark file, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from ...arguments import Count, Seed, checked
from ...command import command
from ...errors import UserError
from ...paths import project_root
from .provenance import provenance
from .report import write_report
from .runner import Options, read_states, run_all
from .runs import FAILED
from .scores import collect, evaluate_methods
from .spec import Changes, Spec, make_jobs, make_spec, read_spec

EXIT_OK, EXIT_FAILED_RUNS = 0, 1


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m threestudio_4d.evaluation.benchmark",
        description="Train configs on clips with ground truth, evaluate them, and write a report.",
        epilog="docs/benchmarking.md describes the benchmark file.",
    )
    add = parser.add_argument
    add("spec", nargs="?", metavar="SPEC.yaml", help="the benchmark file; key=value anywhere: overrides for every run")
    add("--config", nargs="+", metavar="FILE", help="configs, instead of a benchmark file")
    add("--data", metavar="FOLDER", help="<object>/<view>/<frame>.png; needed with --config")
    add("--objects", nargs="+", metavar="NAME", help="only these objects")
    add("--seeds", nargs="+", type=checked(Seed), metavar="N", help="seeds (default: 0)")
    add("--protocol", metavar="NAME", help="of the evaluator (default: bench4d)")
    add("--metrics", nargs="+", metavar="NAME", help="instead of the protocol's; psnr ssim iou flicker need no network")
    add("--out", type=Path, metavar="FOLDER", help="default: outputs/benchmarks/<name>")
    add("--workers", type=checked(Count), metavar="N",
        help="runs at a time, spread over GPUs or cores (default: 1; Ray: what it has)")  # fmt: skip
    add("--threads", type=checked(Count), metavar="N", help="CPU threads of a run (default: cores / workers)")
    add("--ray", nargs="?", const="", metavar="ADDRESS",
        help="spread over this machine, or the cluster at ADDRESS, through Ray")  # fmt: skip
    add("--only", nargs="+", default=[], metavar="PATTERN",
        help="only these configs, objects, s<seed>, or <config>/<object>-s<seed>; * fits all")  # fmt: skip
    add("--retry-failed", action="store_true", help="start failed runs again")
    add("--report", action="store_true", help="run nothing, report on what is there")
    add("--launcher", type=Path, metavar="FILE", help="launch.py to use (default: the project's)")
    # taken out first: an option of several values (--objects deer frog x=1) would take them along
    argv = sys.argv[1:] if argv is None else argv
    overrides = [text for text in argv if re.match(r"[A-Za-z_][\w.]*=", text)]
    args = parser.parse_args([text for text in argv if text not in overrides])
    args.overrides, args.argv = overrides, argv
    return args


def find_spec(args: argparse.Namespace) -> Spec:
    """The benchmark that the command line names, in either of its forms.

    Raises:
        UserError: neither or both forms, or something wrong in them.
    """
    if args.ray and args.ray.endswith((".yaml", ".yml")):
        raise UserError(f"--ray took '{args.ray}' for an address: put the benchmark file before --ray")
    changes = Changes(args.data, args.objects, args.seeds, args.protocol, args.metrics, args.overrides)
    if args.config:
        if args.spec:
            raise UserError(f"give a benchmark file ({args.spec}) or --config, not both")
        if not args.data:
            raise UserError("--config FILE needs --data FOLDER")
        return make_spec(args.config, changes)
    if not args.spec:
        raise UserError("give a benchmark file (before options of several values), or --config FILE --data FOLDER")
    return read_spec(args.spec, changes)


def find_launcher(given: Path | None) -> Path:
    """The ``launch.py`` to call: the one given, the working directory's, or the project's."""
    places = [given] if given else [Path.cwd() / "launch.py", project_root() / "launch.py"]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise UserError(f"there is no {places[-1]}: name the launcher with --launcher FILE")


def run(args: argparse.Namespace) -> int:
    spec = find_spec(args)
    out = (args.out or Path("outputs", "benchmarks", spec.name)).resolve()
    threads = args.threads or (max(1, (os.cpu_count() or 1) // args.workers) if (args.workers or 1) > 1 else None)
    launcher = find_launcher(args.launcher)
    made_with = provenance(launcher.parent)
    jobs = make_jobs(spec, out, launcher, threads, made_with["commit"])
    if not args.report:
        options = Options(args.workers, args.ray is not None, args.ray or None, args.retry_failed, args.only)
        run_all(jobs, out, options)
    out.mkdir(parents=True, exist_ok=True)
    states = read_states(jobs)
    made_with["command"] = f"python -m threestudio_4d.evaluation.benchmark {shlex.join(args.argv)}"

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    methods = collect(spec, jobs, states, out)
    evaluate_methods(spec, methods, out, say)
    path = write_report(spec, jobs, states, methods, out, made_with, say)
    print(f"report in {path} and {path.with_suffix('.md')}", flush=True)
    return EXIT_FAILED_RUNS if any(state.status == FAILED for state in states.values()) else EXIT_OK


@command(interrupted="stopped; the same command goes on, --report reports on what is done")
def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    args = parse_arguments(argv)
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(getattr(signal, name), stop) for name in names]
    try:
        return run(args)
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(getattr(signal, name), handler)


if __name__ == "__main__":
    sys.exit(main())
