"""Frames drawn between those of an RGBA clip, by a stand-in that mixes its two pictures."""

import numpy as np
import torch

from threestudio_4d.prepare.interpolate import interpolate_clip


def mix(first, last, times):
    table = torch.tensor(times).reshape(1, -1, 1, 1, 1)
    return first[:, None] * (1 - table) + last[:, None] * table


def clip(count):
    """A red square over nothing, then a green one over nothing."""
    frames = np.zeros((count, 8, 8, 4), np.uint8)
    for k, frame in enumerate(frames):
        frame[2:6, 2:6] = (200, 0, 0, 255) if k % 2 == 0 else (0, 100, 0, 255)
    return list(frames)


def test_counts_and_given_frames():
    seen = []
    made = interpolate_clip(clip(3), 4, interpolator=mix, progress=lambda: seen.append(1))
    assert len(made) == 9 and len(seen) == 2
    assert all(np.array_equal(made[4 * k], frame) for k, frame in enumerate(clip(3)))
    looped = interpolate_clip(clip(3), 2, loop=True, interpolator=mix)
    assert len(looped) == 6 and np.array_equal(looped[5], clip(3)[0])  # from the last frame to the first, both red


def test_colours_and_alpha_are_mixed_alike():
    made = interpolate_clip(clip(2), 2, interpolator=mix)[1]
    assert made.dtype == np.uint8
    assert made[4, 4].tolist() == [100, 50, 0, 255] and made[0, 0].tolist() == [0, 0, 0, 0]


def test_colours_never_exceed_alpha():
    def bright(first, last, times):
        return mix(first, last, times) + torch.tensor([0.5, 0.5, 0.5, 0.0])  # colours too bright for the alpha

    made = interpolate_clip(clip(2), 2, interpolator=bright)[1]
    assert made[0, 0].tolist() == [0, 0, 0, 0] and made[4, 4, 3] == 255
