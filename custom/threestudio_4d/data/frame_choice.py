"""Which frames of a source make a clip, by order or by time."""

from __future__ import annotations

import numpy as np


def evenly(moments: np.ndarray, wanted: int, loop: bool) -> list[int]:
    """Positions of the ``wanted`` entries of ``moments`` (ascending) next to evenly spaced ones."""
    if wanted == 1 or len(moments) == 1:
        return [0] * wanted
    first, last = moments[0], moments[-1]
    if loop:
        period = last - first + float(np.median(np.diff(moments)))
        targets = first + period * np.arange(wanted) / wanted
    else:
        targets = np.linspace(first, last, wanted)
    return [int(np.abs(moments - target).argmin()) for target in targets]


def rate_varies(times: list[float] | None) -> bool:
    """Whether frames are shown for clearly different times; the rounding of time stamps does not count."""
    if times is None or len(times) < 3:
        return False
    steps = np.diff(times)
    return bool(np.ptp(steps) > 0.5 * np.median(steps))


def choose_frames(
    count: int,
    frame_stride: int = 1,
    num_frames: int | None = None,
    max_frames: int = 128,
    loop: bool = False,
    times: list[float] | None = None,
) -> tuple[list[int], str]:
    """Which of ``count`` frames to use, and a sentence when that is not all of what was asked for.

    Every ``frame_stride``-th frame first; then ``num_frames`` evenly spaced ones of these. Without ``num_frames``, more
    than ``max_frames`` are thinned to ``max_frames``. An open clip keeps its last frame, a loop stays evenly spaced
    across its seam.

    Args:
        times: when each frame is shown, in seconds. Where the rate varies and no stride is given, the frame next to
            each of evenly spaced moments is taken, so an index can come twice.
    """
    indices = list(range(0, count, frame_stride))
    wanted, note = num_frames, ""
    if wanted is None and len(indices) > max_frames:
        wanted = max_frames
        note = (
            f"The clip has {len(indices)} frames; {max_frames} of them, evenly spaced, are used "
            "(data.num_frames, data.frame_stride and data.max_frames decide)."
        )
    if wanted is not None and wanted > len(indices):
        note = f"data.num_frames asks for {wanted} frames, the clip has {len(indices)}: all of them are used."
    wanted = min(wanted or len(indices), len(indices))
    if frame_stride == 1 and rate_varies(times):
        varies = "The frame rate varies: frames were chosen by time, so that the motion keeps its speed."
        return evenly(np.asarray(times, np.float64), wanted, loop), f"{note} {varies}".strip()
    if wanted == len(indices):
        return indices, note
    span = len(indices) / wanted if loop else (len(indices) - 1) / max(wanted - 1, 1)
    return [indices[int(i * span + (0 if loop else 0.5))] for i in range(wanted)], note
