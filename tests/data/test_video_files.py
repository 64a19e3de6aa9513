"""Videos that are written: what is in them, and that a failure leaves nothing behind."""

import builtins

import numpy as np
import pytest

from threestudio_4d.data.frame_sources import open_source
from threestudio_4d.errors import UserError
from threestudio_4d.video_files import write_video

COLORS = [(200, 30, 40), (20, 180, 60), (40, 60, 220)]


def frames(height: int = 33, width: int = 46):
    return (np.full((height, width, 3), color, np.uint8) for color in COLORS)


@pytest.mark.parametrize(("name", "size"), [("clip.mp4", (34, 46)), ("clip.gif", (33, 46))])
def test_what_is_written_can_be_read(name, size, tmp_path):
    write_video(tmp_path / name, frames(), 12.5)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    source = open_source(str(tmp_path / name), "clip")
    seen = source.read(range(3), lambda picture: picture)
    for picture, color in zip(seen, COLORS, strict=True):
        assert picture.shape[:2] == size
        assert np.abs(picture[:30, :40, :3].astype(int) - color).max() < 8


def test_an_unfinished_video_does_not_appear(tmp_path):
    def broken():
        yield from frames()
        raise RuntimeError("no more")

    for name in ("clip.mp4", "clip.gif"):
        with pytest.raises(RuntimeError, match="no more"):
            write_video(tmp_path / name, broken(), 8)
    assert not list(tmp_path.iterdir())


def test_other_endings_and_a_missing_library_are_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must end in \.mp4 or \.gif"):
        write_video(tmp_path / "clip.avi", frames(), 8)

    def without_av(name, *args, real=builtins.__import__, **kwargs):
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(UserError, match="pip install av"):
        write_video(tmp_path / "clip.mp4", frames(), 8)
    assert not list(tmp_path.iterdir())
