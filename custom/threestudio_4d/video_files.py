"""Videos: H.264 in mp4 through PyAV, animated gif through Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from .atomic import atomic_file
from .errors import UserError
from .paths import is_text

LEAST_GIF_DURATION = 20  # milliseconds a frame; players slow shorter ones down


def write_video(
    path: str | Path, frames: Iterable[np.ndarray], fps: float, crf: int = 18, preset: str = "fast"
) -> None:
    """Write uint8 RGB frames [H, W, 3], at least one, to ``path``, whose ending decides the format.

    An mp4 is yuv420p with its index in front, which every browser plays; odd sides grow by a line of white. The file
    appears under its name when it is complete.

    Args:
        crf: quality of an mp4, 0 (lossless) to 51.
        preset: of x264: slower ones make smaller files.

    Raises:
        UserError: the ending is neither ``.mp4`` nor ``.gif``, the name is not UTF-8, PyAV is missing, or no room
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"{path} is no video that can be written: its name must end in .mp4 or .gif")
    if not is_text(path):
        raise UserError(f"{str(path)!r} is not UTF-8, so a video cannot be written there. Give another place.")
    with atomic_file(path) as partial:
        if path.suffix == ".gif":
            _write_gif(partial, frames, fps)
        else:
            _write_mp4(partial, frames, fps, crf, preset)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    duration = max(round(1000 / fps), LEAST_GIF_DURATION)
    first.save(path, "GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float, crf: int, preset: str) -> None:
    try:
        import av
    except ImportError as error:
        raise UserError("writing mp4 needs PyAV: pip install av") from error
    even: Iterator[np.ndarray] = map(_even, frames)
    first = next(even)
    with av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset}
        for frame in chain([first], even):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _even(frame: np.ndarray) -> np.ndarray:
    """yuv420p halves both sides."""
    height, width = frame.shape[:2]
    return np.ascontiguousarray(np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], constant_values=255))
