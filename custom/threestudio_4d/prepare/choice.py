"""Which frames of an input become the clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.frame_choice import evenly
from ..data.frame_source import FrameSource
from ..errors import UserError

DEFAULT_FRAMES = 32
MOST_FRAMES = 128  # what image-seq-datamodule takes by default, and what fits into memory while it is worked on
STILL_FPS = 12.0  # of previews of what has no times


@dataclass(frozen=True)
class Choice:
    """The chosen frames.

    Attributes:
        indices: of the source's frames, ascending; an index comes twice where the source holds a picture for long.
        times: when each is shown, in seconds after the source's first frame; None where that is not known.
        fps: how many of the chosen frames there are in a second of the source; a guess without times.
        notes: what the user might not expect.
    """

    indices: list[int]
    times: list[float] | None
    fps: float
    notes: list[str]


def choose(
    source: FrameSource,
    *,
    frames: int | None = None,
    stride: int | None = None,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    loop: bool = False,
    drop_duplicates: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Choice:
    """Choose frames of ``source``.

    Only frames shown from ``start`` to ``end`` (seconds, both included) count. Of these, ``stride`` takes every
    so-manieth; else ``frames`` (32) are taken evenly spaced in time, all if there are fewer. Where the frame rate
    varies, the frame next to each moment is taken, so that the motion keeps its speed. An open clip keeps its first and
    last frame, a loop stays evenly spaced across its seam.

    Args:
        fps: frames in a second, for sources without times (folders); takes the place of the times of others.
        drop_duplicates: leave out frames that equal the one before bit for bit; the others then count as evenly spaced.
        progress: called after every frame that is compared.

    Raises:
        UserError: no frame in the range, or seconds for a source without times.
    """
    count = len(source)
    times = [i / fps for i in range(count)] if fps else (source.times() if count > 1 else None)
    inside = _in_range(source, times, start, end)
    notes = []
    if drop_duplicates:
        kept = _without_duplicates(source, inside, progress)
        if len(kept) < len(inside):
            notes.append(f"{len(inside) - len(kept)} of {len(inside)} frames equal the one before and were dropped.")
        inside = kept
    if stride is None:
        wanted = frames or DEFAULT_FRAMES
        if frames is not None and frames > len(inside):
            notes.append(f"--frames asks for {frames}, there are {len(inside)}: all of them are used.")
    else:
        inside = inside[::stride]
        wanted = len(inside)
    if wanted > MOST_FRAMES and len(inside) > MOST_FRAMES:
        notes.append(
            f"A clip holds {MOST_FRAMES} frames at most: so many of the {len(inside)} are used, evenly spaced."
        )
    wanted = min(wanted, MOST_FRAMES, len(inside))
    # After dropping, or thinning by a stride, order is what counts.
    moments = [times[i] for i in inside] if times and not drop_duplicates and stride is None else range(len(inside))
    indices = [inside[k] for k in evenly(np.asarray(moments, np.float64), wanted, loop)]
    repeated = len(indices) - len(set(indices))
    if repeated:
        notes.append(
            f"The frame rate varies: {repeated} of {len(indices)} frames repeat another, so that the motion keeps its "
            "speed (--drop-duplicates, --stride 1 or --fps take each frame once)."
        )
    chosen_times = [times[i] for i in indices] if times else None
    return Choice(indices, chosen_times, _rate(chosen_times), notes)


def _in_range(source: FrameSource, times: list[float] | None, start: float | None, end: float | None) -> list[int]:
    count = len(source)
    if start is None and end is None:
        return list(range(count))
    if times is None:
        raise UserError(
            f"{source.path}: --start and --end are in seconds, and this input has no times. Say how many of its frames "
            "make a second with --fps."
        )
    low, high = (0.0 if start is None else start), (times[-1] if end is None else end)
    inside = [i for i, time in enumerate(times) if low - 1e-6 <= time <= high + 1e-6]
    if not inside:
        wanted = f"from {low:g} s on" if end is None else f"between {low:g} and {high:g} s"
        raise UserError(
            f"{source.path}: no frame is shown {wanted}: the {count} frames are shown from 0 to "
            f"{times[-1]:.2f} s. Change --start and --end."
        )
    return inside


def _without_duplicates(source: FrameSource, indices: list[int], progress: Callable[[], None]) -> list[int]:
    def digest(frame: np.ndarray) -> int:
        progress()
        return hash((frame.shape, frame.tobytes()))

    digests = source.read(indices, digest)
    return [index for k, index in enumerate(indices) if k == 0 or digests[k] != digests[k - 1]]


def _rate(times: list[float] | None) -> float:
    if times is None or len(times) < 2 or times[-1] <= times[0]:
        return STILL_FPS
    return (len(times) - 1) / (times[-1] - times[0])
