"""Draw Gaussians from pinhole cameras: one function for all backends."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from threestudio.utils.typing import Float, Tensor

from ...errors import UserError
from ...geometry.gaussians import Gaussians
from ...geometry.gaussians.spherical_harmonics import colours_seen
from .cameras import intrinsics, world_to_camera

BACKENDS = ("auto", "torch", "gsplat")


@dataclass
class SplatRendering:
    """Pictures of B scenes from C cameras each."""

    image: Float[Tensor, "... C H W 3"]  # on the background
    opacity: Float[Tensor, "... C H W 1"]
    depth: Float[Tensor, "... C H W 1"]  # along the camera's axis, summed with the weights of the colours


@torch.compiler.disable
def splat(
    gaussians: Gaussians,
    c2w: Float[Tensor, "... C 4 4"],
    fovy: float | Tensor,
    height: int,
    width: int,
    background: Float[Tensor, "... C 3"] | float = 1.0,
    backend: str = "auto",
    eps2d: float = 0.3,
    near: float = 0.01,
) -> SplatRendering:
    """Draw every scene from its cameras.

    Args:
        gaussians: with any batch shape.
        c2w: OpenGL camera poses, the same batch shape in front of the cameras C.
        fovy: vertical field of view in radians, one or as many as cameras.
        background: a grey, or colours that broadcast to [..., C, 3].
        backend: ``torch`` is the specification, ``gsplat`` needs CUDA, ``auto`` takes the latter where it can.
        eps2d: squared pixels added to the variances of every projected Gaussian, so that none falls between pixels.
        near: Gaussians nearer to the camera than that are not drawn.

    Raises:
        UserError: an unknown backend, or one that cannot run here.
    """
    rasterise = _rasteriser(backend, gaussians.means.device)
    batch, cameras = gaussians.batch_shape, c2w.shape[-3]
    gaussians = gaussians.map(lambda value: value.float())
    c2w = c2w.to(gaussians.means)
    fovy = torch.as_tensor(fovy, dtype=c2w.dtype, device=c2w.device).expand(c2w.shape[:-2])
    colours = colours_seen(gaussians.sh, gaussians.means, c2w[..., :3, 3])
    scene_count = batch.numel()
    flat = gaussians.map(lambda value: value.reshape(scene_count, *value.shape[len(batch) :]))
    with torch.autocast(c2w.device.type, enabled=False):
        picture, opacity = rasterise(
            flat, colours.reshape(scene_count, cameras, gaussians.count, 3),
            world_to_camera(c2w).reshape(scene_count, cameras, 4, 4),
            intrinsics(fovy, height, width).reshape(scene_count, cameras, 3, 3), height, width, eps2d, near,
        )  # fmt: skip
    picture = picture.view(*batch, cameras, height, width, 4)
    opacity = opacity.view(*batch, cameras, height, width, 1)
    if isinstance(background, Tensor):
        background = background[..., None, None, :].to(picture)
    return SplatRendering(picture[..., :3] + (1 - opacity) * background, opacity, picture[..., 3:])


def _rasteriser(backend: str, device: torch.device):
    if backend not in BACKENDS:
        raise UserError(f"unknown splatting backend {backend!r}; it is one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "gsplat" if device.type == "cuda" and find_spec("gsplat") is not None else "torch"
    if backend == "torch":
        from .splat_torch import rasterise
    elif device.type != "cuda":
        raise UserError(f"backend: gsplat draws on CUDA only, and the Gaussians are on {device.type}; use torch")
    else:
        from .splat_gsplat import rasterise
    return rasterise
