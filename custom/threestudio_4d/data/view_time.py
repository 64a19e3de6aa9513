"""View-time sampling: which cameras, at which times of the clip, one step sees.

Draws depend on nothing but (seed, step, kind of step), so a resumed run sees what the uninterrupted run would have
seen, and a resolution milestone takes effect at exactly its step.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..cameras.sphere import Cameras, arc_offsets, sample_azimuths, sample_elevations, uniform
from ..errors import UserError

RELATIONS = ("independent", "arc", "run", "same")
"""How the samples of an SDS batch relate: any cameras at one time; one time, neighbouring azimuths; one camera,
neighbouring times; one camera at one time (modes 1, 2, 3 and -1 of the published code)."""


def step_generator(seed: int, step: int, kind: str) -> torch.Generator:
    """A CPU generator that is a function of its arguments alone."""
    digest = hashlib.blake2b(f"{seed}/{step}/{kind}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def frame_times(num_frames: int, loop: bool) -> Tensor:
    """Times ``[N]`` of the frames in [0, 1]: i/(N-1) for an open clip, i/N for a loop (time 1 is time 0 again)."""
    return torch.arange(num_frames, dtype=torch.float32) / (num_frames if loop else max(num_frames - 1, 1))


def sample_run(
    num_frames: int, length: int, interval: float, loop: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A run of ``length`` evenly spaced moments of the clip.

    The step is ``interval`` * N frames, at least 1, and at most N / ``length``, so that some run holds each frame. A
    frame is drawn uniformly, then the run uniformly among those that hold it, so that the first and last frames of an
    open clip get their share. When the clip has fewer frames than the run has moments, the run spans the clip with
    moments between frames.

    Returns:
        ``timestamps`` ``[length]`` in [0, 1] (rising, except where a loop wraps) and the nearest ``frames``
        ``[length]`` (long).
    """
    gaps = max(length - 1, 1)
    if length > num_frames:
        span = num_frames if loop else num_frames - 1
        positions = torch.arange(length) * (span / (length if loop else gaps))
        if loop:
            positions = (positions + float(torch.rand((), generator=generator)) * num_frames) % num_frames
        times = positions / (num_frames if loop else max(num_frames - 1, 1))
        return times, positions.round().long() % num_frames
    step = max(1, min(int(interval * num_frames), num_frames // length))
    frame = int(torch.randint(num_frames, (), generator=generator))
    slots = torch.arange(length)
    starts = frame - slots * step
    if not loop:
        starts = starts[(starts >= 0) & (starts + (length - 1) * step < num_frames)]
    start = int(starts[torch.randint(len(starts), (), generator=generator)])
    frames = (start + slots * step) % num_frames
    return frame_times(num_frames, loop)[frames], frames


@dataclass(frozen=True)
class Stage:
    """What holds between two resolution milestones: picture size and the views of a step."""

    height: int
    width: int
    batch_size: int


@dataclass
class ViewTimes:
    """Cameras ``[B]``, times ``[B]`` in [0, 1], conditioning (nearest) frames ``[B]``, and how they relate."""

    cameras: Cameras
    timestamps: Tensor
    frames: Tensor
    relation: str


class RandomViews:
    """Draws the views and times of SDS steps.

    Args:
        cfg: the parsed ``random_camera`` section.
        mode_section: cumulative probabilities of :data:`RELATIONS`.
        time_interval: step of a run, as a share of the clip.
    """

    def __init__(self, cfg: Any, mode_section: Sequence[float], time_interval: float, num_frames: int, loop: bool):
        self.cfg, self.num_frames, self.loop = cfg, num_frames, loop
        self.mode_section = numbers(mode_section, 4, "data.mode_section")
        rising = all(a <= b for a, b in zip((0.0, *self.mode_section), self.mode_section, strict=False))
        if not rising or self.mode_section[-1] != 1.0:
            raise UserError(
                f"data.mode_section is {list(mode_section)}: it holds cumulative probabilities of independent views, "
                "arcs, runs and repeats, so it must not fall and must end at 1.0, as in [0.5, 0.625, 0.75, 1.0]."
            )
        self.time_interval = time_interval
        name = "data.random_camera."
        self.elevation = span(cfg.elevation_range, name + "elevation_range", -90.0, 90.0)
        self.azimuth = span(cfg.azimuth_range, name + "azimuth_range")
        self.interval = span(cfg.azimuth_interval_range, name + "azimuth_interval_range")
        self.distance = span(cfg.camera_distance_range, name + "camera_distance_range", 1e-3)
        self.fovy = span(cfg.fovy_range, name + "fovy_range", 1e-3, 179.0)

    def draw(self, batch_size: int, generator: torch.Generator) -> ViewTimes:
        """The views of one step."""
        u = float(torch.rand((), generator=generator))
        relation = next(name for name, bound in zip(RELATIONS, self.mode_section, strict=True) if u < bound)
        n = batch_size if relation == "independent" else 1
        elevation = sample_elevations(n, *self.elevation, self.cfg.elevation_law, generator)
        azimuth = sample_azimuths(n, *self.azimuth, self.cfg.batch_uniform_azimuth, generator)
        distance = uniform(*self.distance, (n,), generator)
        fovy = uniform(*self.fovy, (n,), generator)
        views = [value.expand(batch_size).clone() for value in (elevation, azimuth, distance, fovy)]
        if relation == "arc":
            views[1] += arc_offsets(batch_size, *self.interval, generator)
        shakes = [None if s is None else s.expand(batch_size, 3) for s in self._shakes(n, generator)]
        cameras = Cameras(*views, *shakes)
        if relation == "run":
            times, frames = sample_run(self.num_frames, batch_size, self.time_interval, self.loop, generator)
        else:
            frames = torch.randint(self.num_frames, (1,), generator=generator).expand(batch_size).clone()
            times = frame_times(self.num_frames, self.loop)[frames]
        return ViewTimes(cameras, times, frames, relation)

    def _shakes(self, n: int, generator: torch.Generator) -> list[Tensor | None]:
        """Offsets of position (uniform), look-at centre and up (normal); None where the config has 0."""
        cfg = self.cfg
        position = uniform(-cfg.camera_perturb, cfg.camera_perturb, (n, 3), generator) if cfg.camera_perturb else None
        center = cfg.center_perturb * torch.randn(n, 3, generator=generator) if cfg.center_perturb else None
        up = cfg.up_perturb * torch.randn(n, 3, generator=generator) if cfg.up_perturb else None
        return [position, center, up]


def draw_frames(num_frames: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` uniform frames ``[count]``, different ones as long as there are enough."""
    rounds = -(-count // num_frames)
    return torch.cat([torch.randperm(num_frames, generator=generator) for _ in range(rounds)])[:count]


def stages(
    height: Any, width: Any, batch_size: Any, milestones: Any, keys: Sequence[str]
) -> tuple[list[Stage], list[int]]:
    """Read sizes given as one number or one number a stage. ``keys`` are the four configuration keys, for errors."""
    at = [] if milestones is None else list(milestones) if _is_list(milestones) else [milestones]
    for step in at:
        if not isinstance(step, Integral) or step < 1:
            raise UserError(f"{keys[3]} holds {step!r}: it takes steps (whole numbers from 1).")
    if any(b <= a for a, b in zip(at, at[1:], strict=False)):
        raise UserError(f"{keys[3]} is {at}: the steps must rise.")
    columns = []
    for key, value in zip(keys, (height, width, batch_size), strict=False):
        items = list(value) if _is_list(value) else [value] * (len(at) + 1)
        if len(items) != len(at) + 1:
            raise UserError(
                f"{key} has {len(items)} values and {keys[3]} {len(at)}: there must be "
                f"one value more than milestones ({len(at) + 1}), or one plain number."
            )
        for item in items:
            if isinstance(item, bool) or not isinstance(item, Integral) or item < 1:
                raise UserError(f"{key} holds {item!r}: it takes whole numbers from 1.")
        columns.append([int(item) for item in items])
    return [Stage(*row) for row in zip(*columns, strict=True)], [int(step) for step in at]


def stage_at(all_stages: list[Stage], milestones: list[int], step: int) -> Stage:
    """The stage that ``step`` belongs to; a milestone is the first step of its stage."""
    return all_stages[bisect_right(milestones, step)]


def numbers(value: Any, count: int | None, key: str) -> list[float]:
    """A list of ``count`` (None: any number of) numbers, or a :class:`UserError` that names ``key``."""
    items = list(value) if _is_list(value) else [value]
    counted = _is_list(value) and count in (None, len(items))
    if not counted or any(isinstance(v, bool) or not isinstance(v, Real) for v in items):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise UserError(f"{key} is {items if _is_list(value) else value!r}: it takes a list of {wanted}.")
    return [float(v) for v in items]


def span(value: Any, key: str, least: float = float("-inf"), most: float = float("inf")) -> tuple[float, float]:
    """A range [low, high] within bounds."""
    low, high = numbers(value, 2, key)
    if not least <= low <= high <= most:
        bounds = f" within {least:g} and {most:g}" if most < float("inf") or least > float("-inf") else ""
        raise UserError(f"{key} is [{low:g}, {high:g}]: it takes a range [low, high]{bounds}.")
    return low, high


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
