"""What changes how a thing looks without moving it: light and colour, drawn from uniform numbers for a whole batch."""

from __future__ import annotations

import math
from functools import cache

import torch

from threestudio.utils.typing import Float, Tensor

from .rasterise import AMBIENT, DIRECT, ROUGHNESS, SLOPE, SUN_ELEVATION, Lights, light_direction

SUN_AZIMUTH = 62.0  # of the benchmark's light, relative to its input camera
LIGHT_DRAWS, COLOUR_DRAWS = 6, 5  # rows of uniform numbers
PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers u of [0, 1) stretched to [low, high)."""
    return low + (high - low) * u


def sun_azimuths(u: Float[Tensor, "3 B"], standard_share: float) -> Tensor:
    """Azimuths [B] in degrees: near the benchmark's ``SUN_AZIMUTH`` for some, anywhere for the rest."""
    near, anywhere = SUN_AZIMUTH + between(u[1], -15, 15), between(u[2], -180, 180)
    return torch.where(u[0] < standard_share, near, anywhere)


def varied_lights(u: Float[Tensor, "6 B"], azimuth: Tensor) -> Lights:
    """The benchmark's light from azimuths [B] in degrees, each a little higher or lower, brighter or softer."""
    return Lights(
        direction=light_direction(SUN_ELEVATION + between(u[0], -12, 12), azimuth),
        ambient=AMBIENT * between(u[1], 0.85, 1.2),
        slope=SLOPE * between(u[2], 0.5, 1.4),
        direct=DIRECT * between(u[3], 0.75, 1.2),
        roughness=ROUGHNESS * between(u[4], 0.85, 1.5),
        specular=between(u[5], 0.3, 1.1),
    )


def varied_colours(u: Float[Tensor, "5 B"], permute_share: float, tint_share: float) -> Float[Tensor, "B 3 3"]:
    """Matrices on linear albedo: a permutation of channels for some, a turn of hue and a gain for some."""
    permutations = _permutations(u.device)
    chosen = permutations[(u[1] * 6).long().clamp_max(5)]
    permuted = torch.where((u[0] < permute_share)[:, None, None], chosen, permutations[0])
    tint = u[2] < tint_share
    hue = math.radians(20.0) * (2 * u[3] - 1) * tint
    gain = torch.where(tint, 0.75 + 0.55 * u[4], torch.ones_like(u[4]))
    cosine, sine, third = hue.cos(), hue.sin() / math.sqrt(3.0), (1 - hue.cos()) / 3
    rows = [torch.stack(r, -1) for r in (
        (cosine + third, third - sine, third + sine), (third + sine, cosine + third, third - sine),
        (third - sine, third + sine, cosine + third),
    )]  # fmt: skip
    return gain[:, None, None] * torch.stack(rows, 1) @ permuted


@cache
def _permutations(device: torch.device) -> Float[Tensor, "6 3 3"]:
    """Copied to a device once: copying makes the host wait."""
    return torch.eye(3)[torch.tensor(PERMUTATIONS)].to(device)


def repeated(lights: Lights, times: int) -> Lights:
    """Each light ``times`` times over, one after the other: for the frames or views of one sample."""
    return Lights(**{key: value.repeat_interleave(times, 0) for key, value in vars(lights).items()})
