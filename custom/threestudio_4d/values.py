"""What config values may be: names for annotations that many keys share.

The host checks a key against its annotation when a class is built: ``Annotated[int, Ge(1)]``, see
``docs/architecture.md``. OmegaConf sees what stands first in ``Annotated``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, IsFinite, MinLen

from threestudio.utils.misc import C

__all__ = ["Count", "Number", "PerStage", "Pixels", "Positive", "Schedule", "Share", "Text", "Whole", "schedule_values"]


@dataclass(frozen=True)
class Schedule:
    """True for a number, or a schedule of threestudio, whose values all lie within bounds.

    Used as ``Annotated[Any, Schedule(0, 1)]``. Values must also be greater than ``above``.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __call__(self, value: Any) -> bool:
        try:
            C(value, 0, 0)
            values = schedule_values(value)
        except (TypeError, ValueError, AssertionError):
            return False
        within = all(self.least <= v <= self.most and self.above < v < math.inf for v in values)
        return within and not isinstance(value, bool)

    def __str__(self) -> str:
        bounds = {"{:g} or more": self.least, "above {:g}": self.above, "at most {:g}": self.most}
        stated = " and ".join(text.format(bound) for text, bound in bounds.items() if math.isfinite(bound))
        return "a number or a schedule [start step, value, value, end step]" + (f", values {stated}" if stated else "")


def schedule_values(schedule: Any) -> list[float]:
    """The values that a number, or a schedule ``[start, v0, v1, end, v2, end2, ...]``, goes through."""
    if isinstance(schedule, (int, float)):
        return [float(schedule)]
    items = [0, *schedule] if len(schedule) == 3 else list(schedule)
    return [float(value) for value in (items[1], *items[2::2])]


#: the word for "a finite number, and no schedule"
Number = IsFinite[float]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Pixels = Annotated[int, Interval(ge=1, le=16384)]
Text = Annotated[str, MinLen(1)]
#: one whole number, or one for each stage of training
PerStage = Annotated[Any, Count | list[Count]]
