"""An objective as a table of named terms with scheduled weights.

A term called ``name`` is weighed by ``loss.lambda_<name>`` of the configuration: a number, or a schedule in
threestudio's ``C()`` notation. A term that has one value per cascade level is weighed by ``loss.lambda_<name>_<level>``
when the configuration names the level, else by ``loss.lambda_<name>``, which then holds for all levels. A term (or
level of a term) whose weight is 0 is not computed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from threestudio.utils.typing import Tensor

from ..errors import UserError
from ..values import schedule_values

Levels = list[int]


@dataclass(frozen=True)
class PerLevel:
    """A term with one value per level: ``value(levels)`` returns ``[len(levels)]``."""

    value: Callable[[Levels], Tensor]


@dataclass(frozen=True)
class Overall:
    """A term with a single value: ``value()`` returns a scalar."""

    value: Callable[[], Tensor]


Term = PerLevel | Overall


@dataclass(frozen=True)
class Weighed:
    """One evaluated entry of the table: its name (with the level, if any), value (scalar) and weight."""

    name: str
    value: Tensor
    weight: float


class LossWeights:
    """The ``loss`` section of a configuration, checked when it is built.

    Args:
        section: mapping ``lambda_<term>[_<level>] -> number | schedule``.
        schedule: evaluates a number or schedule at the present step (``system.C``).
        n_levels: how many levels the geometry has.
        per_level, overall: names of the terms that the system has.

    Raises:
        UserError: a key is unknown, or a term has no weight.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        schedule: Callable[[Any], float],
        n_levels: int,
        per_level: Iterable[str],
        overall: Iterable[str],
    ) -> None:
        self.section, self.schedule, self.n_levels = section, schedule, n_levels
        self.per_level, self.overall = tuple(per_level), tuple(overall)
        self._reject_unknown_keys()
        for name in self.overall:
            self.entry(name)
        for name in self.per_level:
            for level in range(n_levels):
                self.entry(name, level)

    def key(self, name: str, level: int | None = None) -> str:
        """The key that weighs a term: the level's own where there is one, else the term's."""
        own = f"lambda_{name}_{level}"
        return own if level is not None and own in self.section else f"lambda_{name}"

    def entry(self, name: str, level: int | None = None) -> Any:
        """The number or schedule that the configuration gives for a term."""
        key = self.key(name, level)
        if key in self.section:
            return self.section[key]
        if level is None:
            raise UserError(f"system.loss.{key} is missing: give the weight of the term '{name}' (0 switches it off).")
        raise UserError(
            f"system.loss has no weight for the term '{name}' at level {level} (the geometry has {self.n_levels} "
            f"levels): give system.loss.lambda_{name}_{level}, or system.loss.lambda_{name} for all levels "
            "(0 switches it off)."
        )

    def __call__(self, name: str, level: int | None = None) -> float:
        """The weight of a term at the present step."""
        return float(self.schedule(self.entry(name, level)))

    def ever_positive(self, name: str) -> bool:
        """Whether a term can get a weight above 0 at some step."""
        levels = range(self.n_levels) if name in self.per_level else [None]
        return any(max(schedule_values(self.entry(name, level))) > 0 for level in levels)

    def evaluate(self, terms: Mapping[str, Term]) -> list[Weighed]:
        """Evaluate the terms that have a weight now; a per-level term gives one entry for each of its levels."""
        table = []
        for name, term in terms.items():
            if isinstance(term, Overall):
                weight = self(name)
                if weight != 0:
                    table.append(Weighed(name, term.value(), weight))
                continue
            weights = {level: self(name, level) for level in range(self.n_levels)}
            levels = [level for level, weight in weights.items() if weight != 0]
            if levels:
                values = term.value(levels)
                table += [
                    Weighed(f"{name}_{level}", value, weights[level])
                    for level, value in zip(levels, values.unbind(), strict=True)
                ]
        return table

    def _reject_unknown_keys(self) -> None:
        valid = {f"lambda_{name}" for name in (*self.overall, *self.per_level)}
        for key in self.section:
            level_of = re.fullmatch(r"(lambda_\w+?)_(\d+)", key)
            if key in valid or (level_of and level_of[1].removeprefix("lambda_") in self.per_level):
                continue
            near = difflib.get_close_matches(key, valid, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(
                f"unknown key system.loss.{key}.{hint} Valid keys: {', '.join(sorted(valid))}; "
                f"with a level at the end (as in lambda_rgb_0) for {', '.join(self.per_level)}."
            )


def select_levels(stacked: Tensor, levels: Levels) -> Tensor:
    """The chosen levels of ``[L, ...]``, without a copy when all are chosen."""
    if len(levels) == stacked.shape[0]:
        return stacked
    return torch.stack([stacked[level] for level in levels])


