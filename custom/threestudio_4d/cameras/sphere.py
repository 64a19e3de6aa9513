"""Cameras on a sphere around the object: positions, rays, and the random samplers of Consistent4D.

World: right-handed, z up; azimuth 0 is on +x and grows toward +y. Camera axes are OpenGL's: the columns of ``c2w`` are
right, up, backward and position. Angles are degrees, except ``fovy`` in a batch, which is radians (threestudio's way).
Everything is a pure function; randomness comes from an explicit CPU generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ELEVATION_LAWS = ("mixed", "uniform", "sphere", "published")


def camera_positions(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
    """Positions ``[B, 3]`` of cameras at ``elevation``, ``azimuth`` (degrees, ``[B]``) and ``distance`` (``[B]``).

    Example: elevation 0, azimuth 90, distance 2 gives (0, 2, 0).
    """
    e, a = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    return distance[:, None] * torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], dim=-1)


def look_at(positions: Tensor, center: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """Camera-to-world matrices ``[B, 4, 4]`` of cameras at ``positions`` ``[B, 3]`` that look at ``center`` ``[B, 3]``.

    ``center`` defaults to the origin and ``up`` to +z. A camera straight above or below takes +x for the missing up.
    """
    center = torch.zeros_like(positions) if center is None else center
    up = positions.new_tensor([0.0, 0.0, 1.0]).expand_as(positions) if up is None else up
    backward = torch.nn.functional.normalize(positions - center, dim=-1)
    right = torch.linalg.cross(up.expand_as(backward), backward, dim=-1)
    spare = torch.linalg.cross(positions.new_tensor([1.0, 0.0, 0.0]).expand_as(backward), backward, dim=-1)
    right = torch.where(right.norm(dim=-1, keepdim=True) > 1e-6, right, spare)
    right = torch.nn.functional.normalize(right, dim=-1)
    c2w = torch.zeros(len(positions), 4, 4, dtype=positions.dtype, device=positions.device)
    c2w[:, :3, 0] = right
    c2w[:, :3, 1] = torch.linalg.cross(backward, right, dim=-1)
    c2w[:, :3, 2] = backward
    c2w[:, :3, 3] = positions
    c2w[:, 3, 3] = 1.0
    return c2w


def focal_length(fovy: Tensor, height: int) -> Tensor:
    """Focal length in pixels of a vertical field of view in radians: 70.06 at 49.1 degrees and 64 pixels."""
    return 0.5 * height / torch.tan(0.5 * fovy)


def camera_rays(
    c2w: Tensor,
    fovy: Tensor,
    height: int,
    width: int,
    origin_noise: Tensor | None = None,
    direction_noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Rays through pixel centres.

    Args:
        c2w: ``[B, 4, 4]``.
        fovy: ``[B]``, radians. Pixels are square and the principal point is the middle of the picture.
        origin_noise, direction_noise: ``[B, 3]``, added to all origins, and to all directions before they are
            normalised (directions have camera depth 1 there).

    Returns:
        ``rays_o``, ``rays_d``: ``[B, height, width, 3]``; directions have length 1; row 0 is the top of the picture.
    """
    focal = focal_length(fovy, height).to(c2w)[:, None, None]
    x = torch.arange(width, dtype=c2w.dtype, device=c2w.device) + (0.5 - 0.5 * width)
    y = (0.5 * height - 0.5) - torch.arange(height, dtype=c2w.dtype, device=c2w.device)
    right, up, backward, origin = (c2w[:, None, None, :3, k] for k in range(4))
    directions = (x[None, None, :] / focal)[..., None] * right + (y[None, :, None] / focal)[..., None] * up - backward
    if direction_noise is not None:
        directions = directions + direction_noise[:, None, None]
    if origin_noise is not None:
        origin = origin + origin_noise[:, None, None]
    return origin.expand(-1, height, width, -1).contiguous(), torch.nn.functional.normalize(directions, dim=-1)


def projection_matrix(fovy: Tensor, aspect: float, near: float = 0.01, far: float = 100.0) -> Tensor:
    """OpenGL projection ``[B, 4, 4]`` with the y axis turned, so that picture row 0 is at NDC y = -1 (threestudio)."""
    out = torch.zeros(len(fovy), 4, 4, dtype=fovy.dtype, device=fovy.device)
    scale = 1.0 / torch.tan(0.5 * fovy)
    out[:, 0, 0] = scale / aspect
    out[:, 1, 1] = -scale
    out[:, 2, 2] = -(far + near) / (far - near)
    out[:, 2, 3] = -2.0 * far * near / (far - near)
    out[:, 3, 2] = -1.0
    return out


@dataclass
class Cameras:
    """Cameras that look at the origin (or at ``center``), all tensors ``[B]`` in degrees and world units, on the CPU.

    ``position_offset``, ``center`` and ``up_offset`` (``[B, 3]`` or None) are the perturbations of threestudio's random
    cameras; the angles stay those before perturbation.
    """

    elevation: Tensor
    azimuth: Tensor
    distance: Tensor
    fovy: Tensor
    position_offset: Tensor | None = None
    center: Tensor | None = None
    up_offset: Tensor | None = None

    def __len__(self) -> int:
        return len(self.azimuth)

    def c2w(self) -> Tensor:
        """``[B, 4, 4]``."""
        positions = camera_positions(self.elevation, self.azimuth, self.distance)
        if self.position_offset is not None:
            positions = positions + self.position_offset
        up = None if self.up_offset is None else positions.new_tensor([0.0, 0.0, 1.0]) + self.up_offset
        return look_at(positions, self.center, up)

    def batch(
        self,
        height: int,
        width: int,
        device: torch.device | str = "cpu",
        origin_noise: Tensor | None = None,
        direction_noise: Tensor | None = None,
    ) -> dict[str, Any]:
        """threestudio's camera keys: ``rays_o, rays_d [B,H,W,3]``, ``c2w, mvp_mtx, proj_mtx [B,4,4]``,
        ``camera_positions, light_positions [B,3]``, ``elevation, azimuth, camera_distances, fovy [B]`` (degrees, but
        ``fovy`` in radians), ``height``, ``width``. The light stands at the camera."""
        c2w = self.c2w()
        fovy = torch.deg2rad(self.fovy)
        proj = projection_matrix(fovy, width / height)
        small = {
            "c2w": c2w,
            "mvp_mtx": proj @ torch.linalg.inv(c2w),
            "proj_mtx": proj,
            "camera_positions": c2w[:, :3, 3].clone(),
            "light_positions": c2w[:, :3, 3].clone(),
            "elevation": self.elevation,
            "azimuth": self.azimuth,
            "camera_distances": self.distance,
            "fovy": fovy,
        }
        out: dict[str, Any] = {key: value.to(device) for key, value in small.items()}
        noise = [None if n is None else n.to(device) for n in (origin_noise, direction_noise)]
        out["rays_o"], out["rays_d"] = camera_rays(out["c2w"], out["fovy"], height, width, *noise)
        return {**out, "height": height, "width": width}


def fixed_cameras(elevation: float, azimuth: Tensor | list[float], distance: float, fovy: float) -> Cameras:
    """Cameras at one elevation, distance and field of view (degrees), one for each azimuth."""
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32)
    same = [torch.full_like(azimuth, value) for value in (elevation, distance, fovy)]
    return Cameras(same[0], azimuth, same[1], same[2])


def uniform(low: float, high: float, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform on [low, high)."""
    return low + (high - low) * torch.rand(size, generator=generator)


def sample_elevations(n: int, low: float, high: float, law: str, generator: torch.Generator) -> Tensor:
    """Random elevations ``[n]`` in degrees.

    Args:
        law: ``uniform`` in degrees; ``sphere``: uniform over the area of the sphere between ``low`` and ``high``;
            ``mixed``: a fair coin, one for all ``n``, between the two (Consistent4D); ``published``: the same coin,
            with the sphere formula of the original, which from -10..60 reaches only -6.4..41.8.
    """
    if law not in ELEVATION_LAWS:
        raise ValueError(f"elevation law is '{law}'; allowed: {', '.join(ELEVATION_LAWS)}")
    coin = float(torch.rand((), generator=generator))
    u = torch.rand(n, generator=generator)
    if law == "uniform" or (law in ("mixed", "published") and coin < 0.5):
        return low + (high - low) * u
    if law == "published":
        first, last = (low + 90.0) / 180.0, (high + 90.0) / 180.0
        return torch.rad2deg(torch.asin(2.0 * (first + (last - first) * u) - 1.0))
    first, last = math.sin(math.radians(low)), math.sin(math.radians(high))
    return torch.rad2deg(torch.asin((first + (last - first) * u).clamp(-1.0, 1.0)))


def sample_azimuths(n: int, low: float, high: float, stratified: bool, generator: torch.Generator) -> Tensor:
    """Random azimuths ``[n]`` in degrees; ``stratified``: one in each n-th part of the range, in order."""
    u = torch.rand(n, generator=generator)
    return low + (high - low) * ((torch.arange(n) + u) / n if stratified else u)


def arc_offsets(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Azimuth offsets ``[n]`` of an arc: 0, d, 2d, ... with one step d uniform on [low, high) degrees."""
    return torch.arange(n) * float(uniform(low, high, (), generator))
