"""Splatting in plain PyTorch, the specification: any device, gradients by autograd, a tile of a picture at a time."""

from __future__ import annotations

import torch

from threestudio.utils.typing import Float, Tensor

from ...geometry.gaussians import Gaussians
from .projection import ALPHA_THRESHOLD, Projected, project

TILE = 8  # pixels
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4


def rasterise(
    gaussians: Gaussians,
    colours: Float[Tensor, "B C N 3"],
    viewmats: Float[Tensor, "B C 4 4"],
    intrinsics: Float[Tensor, "B C 3 3"],
    height: int,
    width: int,
    eps2d: float,
    near: float,
) -> tuple[Float[Tensor, "B C H W 4"], Float[Tensor, "B C H W 1"]]:
    """Accumulated colour and depth, and opacity, of each of B scenes from each of its C cameras."""
    scenes, cameras = viewmats.shape[:2]
    covariances = gaussians.covariances()
    pictures, opacities = [], []
    for scene in range(scenes):
        for camera in range(cameras):
            flat = project(
                gaussians.means[scene], covariances[scene], gaussians.opacities[scene], viewmats[scene, camera],
                intrinsics[scene, camera], height, width, eps2d, near,
            )  # fmt: skip
            values = torch.cat([colours[scene, camera], flat.depths[:, None]], -1)
            picture, opacity = _picture(flat, gaussians.opacities[scene], values, height, width)
            pictures.append(picture)
            opacities.append(opacity)
    shape = (scenes, cameras)
    return torch.stack(pictures).unflatten(0, shape), torch.stack(opacities).unflatten(0, shape)


def _picture(
    flat: Projected, opacities: Float[Tensor, " N"], values: Float[Tensor, "N D"], height: int, width: int
) -> tuple[Float[Tensor, "H W D"], Float[Tensor, "H W 1"]]:
    drawn = (flat.radii > 0).all(-1).nonzero()[:, 0]
    order = drawn[flat.depths[drawn].argsort(stable=True)]
    rows = []
    for top in range(0, height, TILE):
        row = []
        for left in range(0, width, TILE):
            y = torch.arange(top, min(top + TILE, height), device=values.device)
            x = torch.arange(left, min(left + TILE, width), device=values.device)
            low, high = values.new_tensor([left, top]), values.new_tensor([left + TILE, top + TILE])
            centres, radii = flat.means[order].detach(), flat.radii[order]
            near = order[((centres + radii > low) & (centres - radii < high)).all(-1)]
            row.append(_tile(flat, opacities, values, near, y, x))
        rows.append(torch.cat(row, 1))
    out = torch.cat(rows)
    return out[..., :-1], out[..., -1:]


def _tile(
    flat: Projected, opacities: Tensor, values: Tensor, near: Tensor, y: Tensor, x: Tensor
) -> Float[Tensor, "h w D+1"]:
    """Accumulated values and opacity of a tile from the Gaussians ``near``, front to back."""
    offset_x = flat.means[near, 0] - (x + 0.5)[:, None]  # [w, n]
    offset_y = flat.means[near, 1] - (y + 0.5)[:, None]  # [h, n]
    xx, xy, yy = flat.conics[near].unbind(-1)
    half = 0.5 * (xx * offset_x**2)[None] + 0.5 * (yy * offset_y**2)[:, None]
    exponent = half + xy * offset_x[None] * offset_y[:, None]  # [h, w, n]
    alpha = (opacities[near] * torch.exp(-exponent)).clamp_max(MAX_ALPHA)
    alpha = torch.where((exponent >= 0) & (alpha >= ALPHA_THRESHOLD), alpha, torch.zeros_like(alpha))
    after = (1 - alpha).cumprod(-1)
    before = torch.cat([torch.ones_like(after[..., :1]), after[..., :-1]], -1)
    weights = torch.where(after > MIN_TRANSMITTANCE, alpha * before, torch.zeros_like(alpha))
    return torch.cat([weights @ values[near], weights.sum(-1, keepdim=True)], -1)
