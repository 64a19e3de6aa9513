"""Command line of the evaluator: ``python -m threestudio_4d.evaluation PRED GT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..arguments import result_file
from ..atomic import write_text
from ..command import command
from .protocols import METRICS, PROTOCOLS
from .result import Result

_DESCRIPTION = """Compare frames of other views with ground truth.

PRED and GT hold <view>/<frame>.png of one object, or <object>/<view>/<frame>.png of several; in PRED, an object may be
the folder of a trial, with its frames in save/eval. Frames are numbered 0.png, 1.png, ... without a gap. What does not
pair up is an error. Protocols and metrics are described in docs/evaluation.md."""


def build_parser() -> argparse.ArgumentParser:
    protocols = "; ".join(
        f"{p.name}: {p.size} x {p.size}, {p.resize}, {', '.join(p.metrics)}" for p in PROTOCOLS.values()
    )
    parser = argparse.ArgumentParser(
        prog="python -m threestudio_4d.evaluation",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 measured, 2 an error that the message explains, 130 interrupted",
    )
    parser.add_argument("predicted", type=Path, metavar="PRED")
    parser.add_argument("truth", type=Path, metavar="GT")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="bench4d", help=protocols)
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        choices=list(METRICS),
        help="only these (then one that cannot be computed is an error; by default it is left out with the reason): "
        + ", ".join(METRICS),
    )
    parser.add_argument("--objects", nargs="+", metavar="NAME", help="only these; by default both sides must agree")
    parser.add_argument("--views", nargs="+", metavar="NAME", help="instead of the protocol's views")
    parser.add_argument("--size", help="pixels of a side instead of the protocol's, or 'native' for no resizing")
    parser.add_argument(
        "--background",
        choices=["white", "white-mask"],
        help="white: blend by alpha; white-mask: white only where alpha is 0 (as the Consistent4D script can do)",
    )
    parser.add_argument("--out", type=result_file, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--lpips", metavar="FOLDER", help="LPIPS weights (by default load/lpips, see fetch lpips)")
    parser.add_argument(
        "--clip", metavar="MODEL", help="folder or hub id of a CLIP model; a hub id is downloaded if need be"
    )
    parser.add_argument(
        "--fvd-network",
        metavar="FILE",
        help="I3D for FVD: i3d_pretrained_400.pt, or a TorchScript archive. Loading TorchScript runs the program in "
        "the file: give one that you trust",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (by default the GPU if there is one)")
    return parser


@command(interrupted="interrupted; nothing was written")
def main(argv: list[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    result = _evaluate(arguments)
    _print_tables(result)
    if arguments.out is not None:
        _write(arguments.out, result)


def _evaluate(arguments: argparse.Namespace) -> Result:
    from .evaluate import evaluate_folders
    from .folders import Pair

    def track(pairs: Sequence[Pair]) -> Iterable[Pair]:
        from rich.console import Console
        from rich.progress import track as show

        return show(pairs, "clips", console=Console(stderr=True), transient=True)

    size = int(arguments.size) if arguments.size and arguments.size.isdecimal() else arguments.size
    return evaluate_folders(
        arguments.predicted,
        arguments.truth,
        arguments.protocol,
        arguments.metrics,
        objects=arguments.objects,
        views=arguments.views,
        size=size,
        background=arguments.background,
        lpips=arguments.lpips,
        clip=arguments.clip,
        fvd_network=arguments.fvd_network,
        device=arguments.device,
        require=arguments.metrics is not None,
        track=track,
    )


def _print_tables(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(width=240)
    sides = f"{result.size} x {result.size}, {result.background}, {result.resize}"
    table = Table(title=f"{result.protocol} (version {result.version}): {sides}", title_justify="left")
    table.add_column("object", no_wrap=True)
    table.add_column("views", justify="right")
    table.add_column("frames", justify="right")
    for name in result.metrics:
        arrow = "↑" if METRICS[name].better == "higher" else "↓"
        table.add_column(f"{METRICS[name].title} {arrow}", justify="right")
    for name, means in result.objects.items():
        frames = {count for key, count in result.frames.items() if key.rsplit("/", 1)[0] == name}
        table.add_row(name, str(len(result.values[name])), _span(frames), *_cells(result, means))
    table.add_section()
    table.add_row("mean", "", "", *_cells(result, result.mean), style="bold")
    console.print(table)
    for text in (network["note"] for network in result.networks.values() if "note" in network):
        console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)
    for reason in dict.fromkeys(result.skipped.values()):
        names = ", ".join(name for name, other in result.skipped.items() if other == reason)
        console.print(f"left out: {names}: {reason}", highlight=False, markup=False, soft_wrap=True)


def _cells(result: Result, values: dict[str, float]) -> list[str]:
    return [f"{values[name]:.{METRICS[name].digits}f}" if name in values else "" for name in result.metrics]


def _span(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"


def _write(path: Path, result: Result) -> None:
    write_text(path, result.to_json())
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
