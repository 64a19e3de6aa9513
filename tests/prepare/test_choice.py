"""Which frames become the clip."""

from pathlib import Path

import numpy as np
import pytest

from threestudio_4d.data.frame_sources import FrameSource
from threestudio_4d.errors import UserError
from threestudio_4d.prepare.choice import STILL_FPS, choose


class Source(FrameSource):
    """Frames whose pixels are their ``values``."""

    def __init__(self, times=None, values=None, count=None):
        super().__init__(Path("clip"))
        self._times = times
        self._values = values
        self.names = [str(i) for i in range(count or len(times or values))]

    def times(self):
        return self._times

    def _frames(self, wanted, as_mask, broken):
        yield from ((i, np.full((2, 2, 3), self._values[i], np.uint8)) for i in sorted(wanted))


def steady(count, fps=10):
    return Source([i / fps for i in range(count)])


def test_fewer_frames_than_wanted_are_all_used():
    assert choose(steady(7)).indices == list(range(7))
    assert choose(steady(7)).notes == []
    assert "there are 7" in choose(steady(7), frames=9).notes[0]


def test_evenly_spaced_with_both_ends():
    choice = choose(steady(31), frames=4)
    assert choice.indices == [0, 10, 20, 30]
    assert choice.times == pytest.approx([0, 1, 2, 3]) and choice.fps == pytest.approx(1)


def test_a_loop_is_evenly_spaced_across_its_seam():
    assert choose(steady(32), frames=4, loop=True).indices == [0, 8, 16, 24]


def test_the_default_is_32_frames():
    assert len(choose(steady(200)).indices) == 32


def test_a_stride_takes_every_third_and_at_most_128():
    assert choose(steady(10), stride=3).indices == [0, 3, 6, 9]
    choice = choose(steady(400), stride=1)
    assert len(choice.indices) == 128 and choice.indices[-1] == 399 and "128" in choice.notes[0]


def test_seconds_are_inclusive():
    assert choose(steady(30), start=0.5, end=0.8).indices == [5, 6, 7, 8]


def test_a_variable_frame_rate_keeps_the_speed():
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]  # the last picture comes after a pause
    choice = choose(Source(times), frames=6)
    assert choice.indices == [0, 2, 4, 4, 5, 5] and "frame rate varies: 2 of 6" in choice.notes[0]
    assert choose(Source(times), stride=1).indices == [0, 1, 2, 3, 4, 5]


def test_duplicates_stay_unless_dropped():
    values = [1, 1, 2, 3, 3, 3, 4, 1]
    source = Source([i / 10 for i in range(8)], values)
    assert len(choose(source).indices) == 8
    seen = []
    choice = choose(source, drop_duplicates=True, progress=lambda: seen.append(1))
    assert choice.indices == [0, 2, 3, 6, 7] and len(seen) == 8
    assert "3 of 8 frames equal the one before" in choice.notes[0]


def test_a_folder_has_times_only_when_told():
    source = Source(count=20)
    with pytest.raises(UserError, match="Say how many of its frames make a second with --fps"):
        choose(source, start=1)
    assert choose(source, start=0.5, end=1.0, fps=10).indices == [5, 6, 7, 8, 9, 10]
    assert choose(source).fps == STILL_FPS and choose(source).times is None


def test_an_empty_range_says_how_long_the_clip_is():
    with pytest.raises(
        UserError, match="no frame is shown between 5 and 9 s: the 20 frames are shown from 0 to 1.90 s"
    ):
        choose(steady(20), start=5, end=9)
