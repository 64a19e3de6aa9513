"""Command line of the preparation. Exit status: 0 done, 2 a fault that the message explains, 130 interrupted.

Without an installation ``python custom/threestudio_4d/prepare INPUT OUT`` does the same.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a folder: put both packages on the path, run as a module
    _project = Path(os.path.abspath(__file__)).parents[3]
    sys.path[:1] = [str(_project / "custom"), str(_project / "extern")]
    runpy.run_module("threestudio_4d.prepare", run_name="__main__", alter_sys=True)

from ..command import command  # noqa: E402
from ..paths import train_command  # noqa: E402
from .background import METHODS  # noqa: E402
from .choice import DEFAULT_FRAMES, MOST_FRAMES  # noqa: E402
from .pipeline import Prepared, prepare  # noqa: E402
from .settings import Settings  # noqa: E402

DESCRIPTION = """\
Make a clean RGBA clip of a video, an animated picture, pictures or one picture: frames are chosen, the background is
removed, one square around the object is cut out of all frames. OUT then holds 0.png, 1.png, ... with alpha, a contact
sheet, a preview video and a record of what was done. The input stays as it is."""

EPILOG = """\
examples:
  python -m threestudio_4d.prepare dog.mp4 clips/dog --start 2 --end 5
  python -m threestudio_4d.prepare photo.jpg clips/photo
  python -m threestudio_4d.prepare frames/*.png clips/rose --background key --loop
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m threestudio_4d.prepare",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Settings()
    parser.add_argument("input", nargs="+", help="video, GIF/WebP/APNG, folder, pattern, one picture or several")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in OUT")
    parser.add_argument("--quiet", action="store_true", help="no progress bars and no notes")

    group = parser.add_argument_group("frames")
    group.add_argument(
        "--frames", type=int, metavar="N", help=f"so many, evenly spaced in time (default {DEFAULT_FRAMES})"
    )
    group.add_argument(
        "--stride", type=int, metavar="N", help=f"instead: every N-th frame, {MOST_FRAMES} of them at most; 1 takes all"
    )
    group.add_argument("--start", type=float, metavar="S", help="first second that counts")
    group.add_argument("--end", type=float, metavar="S", help="last second that counts")
    group.add_argument("--fps", type=float, help="frames in a second, for folders of pictures or instead of the file's")
    group.add_argument("--loop", action="store_true", help="the clip's end leads back to its start")
    group.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="leave out frames equal to the one before, bit for bit (default: they stay)",
    )
    group.add_argument(
        "--repeat",
        type=int,
        default=default.repeat,
        metavar="N",
        help="a single picture is written so many times, as a still clip; 1: one picture (default %(default)s)",
    )

    group = parser.add_argument_group("background")
    group.add_argument(
        "--background",
        default=default.background,
        metavar="HOW",
        help=f"{', '.join(METHODS)}; auto takes alpha if there is some, else key if the border is of one colour, else "
        "u2net (default %(default)s)",
    )
    group.add_argument(
        "--key-color", default=default.key_color, metavar="COLOR", help="auto, white, black, green, blue or #rrggbb"
    )
    cleaning = {
        "largest-part": "keep only the object that is largest over the whole clip",
        "fill-holes": "fill pinholes in the mask",
        "clean-edges": "take the background's colour out of soft edges",
    }
    for name, meaning in cleaning.items():
        group.add_argument(
            f"--{name}",
            action=argparse.BooleanOptionalAction,
            help=f"{meaning} (default: {'networks only' if name == 'clean-edges' else 'unless the input has alpha'})",
        )

    group = parser.add_argument_group("picture")
    group.add_argument(
        "--fill",
        type=float,
        default=default.fill,
        metavar="F",
        help="longer side of the object's box over the whole clip, as a share of the picture's (default %(default)s)",
    )
    group.add_argument("--no-crop", dest="crop", action="store_false", help="keep the whole frame, padded to a square")
    group.add_argument(
        "--size", type=int, default=default.size, metavar="PX", help="side of the pictures (default %(default)s)"
    )
    group.add_argument(
        "--interpolate",
        type=int,
        default=default.interpolate,
        metavar="K",
        help="so many times as many frames, drawn by RIFE (default %(default)s: none)",
    )
    return parser


@command(interrupted="interrupted; nothing was written")
def main(argv: list[str] | None = None) -> None:
    arguments = vars(build_parser().parse_args(argv))
    inputs, out = arguments.pop("input"), arguments.pop("out")
    settings = Settings(**arguments)
    result = prepare(inputs, out, settings)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not settings.quiet:
        for note in result.notes:
            print(f"note: {note}", file=sys.stderr)
    print(summary(result, settings))


def summary(result: Prepared, settings: Settings) -> str:
    """The last lines: what is where, and what to do with it."""
    method = result.record["background"]["method"]
    lines = [
        f"{result.out}: {result.count} frame{'s' * (result.count != 1)} of {settings.size}x{settings.size}, "
        f"background: {method}. Look at {result.out / 'contact_sheet.png'}."
    ]
    if result.count > 1 and method != "none":
        lines.append(f"Train with: {train_command(result.out, settings.loop)}")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-done is left behind
    sys.exit(main())
