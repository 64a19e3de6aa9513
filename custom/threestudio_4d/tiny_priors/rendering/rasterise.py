"""Renders batches of posed meshes: one image for each (pose, camera, light), on CUDA by Triton, on CPU by numba.

Both backends do the same: every front-facing triangle writes ``(1/depth, triangle number)`` into a 64-bit z-buffer by
atomic maximum, then every pixel shades the triangle that won: flat or smooth normals, Lambert, a hemisphere of
ambient light and a GGX highlight, in linear light; sRGB encoding; then a box filter over 2x2 samples.
Nothing waits for the GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from threestudio.utils.typing import Float, Tensor

from ...errors import UserError
from .scenes import PosedMeshes

FOVY_DEG = 49.1
DISTANCE = 2.0
PARAMETERS = 36  # columns of the parameter table, see Shot.table
CHUNK_SAMPLES = 1 << 27  # z-buffer entries (8 bytes each) held at once


@dataclass
class Lights:
    """Light of each image, in the world. ``ambient + slope * n_z + direct * max(0, n.l)`` multiplies the albedo."""

    direction: Float[Tensor, "B 3"]  # unit, towards the light
    ambient: Tensor  # [B]
    slope: Tensor  # [B]
    direct: Tensor  # [B]
    roughness: Tensor  # [B]
    specular: Tensor  # [B] strength of the highlight, 1 = a rough painted metal

    @classmethod
    def standard(cls, count: int, device: torch.device | str = "cpu", azimuth: float | Tensor = 62.0) -> Lights:
        """The benchmark's light: a soft hemisphere and a sun fixed in the world at an azimuth in degrees."""

        def full(value: float) -> Tensor:
            return torch.full((count,), value, device=device)

        azimuths = azimuth if isinstance(azimuth, Tensor) else full(azimuth)
        direction = light_direction(full(SUN_ELEVATION), azimuths)
        return cls(direction, full(AMBIENT), full(SLOPE), full(DIRECT), full(ROUGHNESS), full(1.0))


AMBIENT, SLOPE, DIRECT, ROUGHNESS, SUN_ELEVATION = 0.70, 0.19, 0.95, 0.42, 48.0


def light_direction(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """Unit vectors [B, 3] towards an elevation and azimuth in degrees."""
    e, a = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    return torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1)


def camera_to_world(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Float[Tensor, "B 4 4"]:
    """OpenGL camera poses that look at the origin, z up; azimuth 0 stands on +x. Degrees, |elevation| < 90."""
    back = light_direction(elevation, azimuth)
    a = torch.deg2rad(azimuth)
    right = torch.stack([-a.sin(), a.cos(), torch.zeros_like(a)], -1)
    up = torch.linalg.cross(back, right)
    top = torch.stack([right, up, back, back * distance[:, None]], -1)
    bottom = torch.zeros_like(top[:, :1])
    bottom[..., 3] = 1.0
    return torch.cat([top, bottom], 1)


@dataclass
class Shot:
    """What to render: B poses, cameras, lights and small changes. Angles in degrees, tensors on the meshes' device.

    ``scale`` and ``offset`` move the object, world' = world * scale + offset. ``colour`` multiplies linear albedo.
    ``flip`` mirrors the image left to right.
    """

    pose: Tensor  # [B] long
    elevation: Tensor  # [B]
    azimuth: Tensor  # [B]
    distance: Tensor  # [B]
    lights: Lights | None = None
    scale: Tensor | None = None  # [B]
    offset: Float[Tensor, "B 3"] | None = None
    colour: Float[Tensor, "B 3 3"] | None = None
    flip: Tensor | None = None
    fovy_deg: float = FOVY_DEG

    @classmethod
    def of(cls, pose: list[int] | Tensor, azimuth=0.0, elevation=0.0, distance=DISTANCE, device="cpu", **rest) -> Shot:
        """A shot from plain numbers; scalars are repeated for every pose."""
        pose = torch.as_tensor(pose, dtype=torch.long, device=device).reshape(-1)

        def full(value) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=device).expand(len(pose)).contiguous()

        return cls(pose, full(elevation), full(azimuth), full(distance), **rest)

    def table(self) -> Float[Tensor, "B 36"]:
        """Camera rows right, up, back (9), position (3), focal (1), scale (1), offset (3), light (3), ambient, slope,
        direct, roughness^2, specular (5), colour (9), flip (1), spare (1)."""
        count, device = len(self.pose), self.pose.device
        c2w = camera_to_world(self.elevation, self.azimuth, self.distance)
        lights = self.lights if self.lights is not None else Lights.standard(count, device)
        one = torch.ones(count, 1, device=device)
        scale = one if self.scale is None else self.scale[:, None]
        offset = torch.zeros(count, 3, device=device) if self.offset is None else self.offset
        colour = torch.eye(3, device=device).expand(count, 3, 3) if self.colour is None else self.colour
        flip = torch.zeros(count, 1, device=device) if self.flip is None else self.flip[:, None].float()
        focal = one / math.tan(math.radians(self.fovy_deg) / 2)
        scalars = torch.stack([lights.ambient, lights.slope, lights.direct, lights.roughness**2, lights.specular], -1)
        columns = [
            c2w[:, :3, :3].transpose(1, 2).reshape(count, 9), c2w[:, :3, 3], focal, scale, offset, lights.direction,
            scalars, colour.reshape(count, 9), flip, torch.zeros_like(one),
        ]  # fmt: skip
        return torch.cat([c.float() for c in columns], 1).contiguous()

    def part(self, rows: slice) -> Shot:
        """Some of the images."""

        def cut(value):
            return value[rows] if isinstance(value, Tensor) else value

        lights = self.lights
        if lights is not None:
            lights = Lights(**{k: cut(v) for k, v in vars(lights).items()})
        return replace(self, **{k: cut(v) for k, v in vars(self).items() if k != "lights"}, lights=lights)


def render(
    meshes: PosedMeshes, shot: Shot, resolution: int, supersample: int = 2, backend: str = "auto"
) -> Float[Tensor, "B S S 4"]:
    """Renders a shot.

    Args:
        meshes: the posed meshes; they and the shot live on one device.
        resolution: S, pixels a side.
        supersample: samples a side of a pixel.
        backend: "triton", "numba", or "auto": Triton on CUDA, numba on CPU.

    Returns:
        Straight-alpha sRGB images [B, S, S, 4] float32 in [0, 1], row 0 on top; empty pixels are all zero.

    Raises:
        UserError: an unknown backend, or Triton is not installed.
    """
    if backend == "auto":
        backend = "triton" if meshes.device.type == "cuda" else "numba"
    if backend == "numba":
        from .rasterise_numba import render_table
    elif backend == "triton":
        try:
            from .rasterise_triton import render_table
        except ImportError as error:
            raise UserError(
                f"The GPU rasteriser needs Triton ({error}). Use a CUDA build of torch, or the CPU."
            ) from error
    else:
        raise UserError(f"Unknown rasteriser backend {backend!r}; it is one of 'auto', 'triton', 'numba'.")
    table, pose = shot.table(), shot.pose.to(meshes.device)
    chunk = min(max(1, CHUNK_SAMPLES // (resolution * supersample) ** 2), 32768)
    images = [
        render_table(meshes, pose[i : i + chunk], table[i : i + chunk], resolution, supersample)
        for i in range(0, len(pose), chunk)
    ]
    return images[0] if len(images) == 1 else torch.cat(images)


def on_white(rgba: Float[Tensor, "B S S 4"]) -> Float[Tensor, "B 3 S S"]:
    """Channel-first images composited on white."""
    alpha = rgba[..., 3:]
    return (rgba[..., :3] * alpha + (1 - alpha)).permute(0, 3, 1, 2).contiguous()
