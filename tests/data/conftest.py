"""Fixtures of the data tests."""

from pathlib import Path

import pytest
from clip_makers import make_clip, write_folder


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """Twelve RGBA frames, 0.png to 11.png: sorted as text, 10 comes before 2."""
    return write_folder(tmp_path / "clip", make_clip(12))
