"""Writing videos: H.264 in mp4 through PyAV, animated gif through Pillow."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from threestudio.utils.atomic import atomic_file
from threestudio.utils.errors import UserError

__all__ = ["write_video"]


def write_video(path: str, frames: Iterable[np.ndarray], fps: float = 30, crf: int = 18) -> str:
    """Write uint8 RGB frames [H, W, 3] to ``path``, whose suffix (``.mp4`` or ``.gif``) decides the format.

    Odd sizes are padded with the border pixels to even ones for mp4 (yuv420p needs that); nothing is resized. The file
    appears under its name only when it is complete. No frames, no file.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return path
    with atomic_file(path) as partial:
        if path.endswith(".gif"):
            _write_gif(partial, first, frames, fps)
        else:
            _write_mp4(partial, first, frames, fps, crf)
    return path


def _write_mp4(path: Path, first: np.ndarray, frames: Iterable[np.ndarray], fps: float, crf: int) -> None:
    try:
        import av
    except ImportError as error:
        raise UserError("Writing mp4 needs PyAV: pip install av (or save as gif).") from error
    height, width = (s + s % 2 for s in first.shape[:2])
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in _with_first(first, frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(_pad(frame, height, width), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _write_gif(path: Path, first: np.ndarray, frames: Iterable[np.ndarray], fps: float) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in _with_first(first, frames)]
    duration = max(round(1000 / fps), 20)
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)


def _with_first(first: np.ndarray, frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    for frame in frames:
        if frame.shape != first.shape:
            raise UserError(f"Frames of a video must have one size: {list(first.shape)}, then {list(frame.shape)}.")
        yield frame


def _pad(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    pad = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(frame, pad, mode="edge"))
