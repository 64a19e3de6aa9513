"""What the command line sets."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .background import check_method
from .choice import MOST_FRAMES


@dataclass
class Settings:
    """``python -m threestudio_4d.prepare --help`` says what each means. A cleaning step that is None is made where the
    alpha was computed, and left out where the input brought it.
    """

    frames: int | None = None
    stride: int | None = None
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    loop: bool = False
    drop_duplicates: bool = False
    repeat: int = 8
    background: str = "auto"
    key_color: str = "auto"
    largest_part: bool | None = None
    fill_holes: bool | None = None
    clean_edges: bool | None = None
    crop: bool = True
    fill: float = 0.75
    size: int = 512
    interpolate: int = 1
    overwrite: bool = False
    quiet: bool = False

    def check(self) -> None:
        """Raise a ``UserError`` for a value outside its range."""
        check_method(self.background)
        if self.frames is not None and self.stride is not None:
            raise UserError("--frames takes evenly spaced frames and --stride every so-manieth: give one of them.")
        ranges = {
            "frames": (1, MOST_FRAMES),
            "stride": (1, 10**6),
            "start": (0, 10**6),
            "end": (0, 10**6),
            "fps": (0.01, 1000),
            "repeat": (1, MOST_FRAMES),
            "fill": (0.1, 1),
            "size": (16, 4096),
            "interpolate": (1, 8),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # so that nan is refused too
                raise UserError(f"--{name} is {value:g}; it must be from {least} to {most}.")
        if self.end is not None and self.end < (self.start or 0):
            raise UserError(f"--end ({self.end:g} s) comes before --start ({self.start:g} s).")
