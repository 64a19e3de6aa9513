"""Emission-absorption compositing of packed samples: segment scan for the weights, segment sum for the pixels."""

from __future__ import annotations

import torch

from threestudio.utils.typing import Float, Int, Tensor


def sample_weights(
    density: Float[Tensor, "L M"], step: float, ray_indices: Int[Tensor, " M"], n_rays: int
) -> Float[Tensor, "L M"]:
    """Weights ``w_i = T_i (1 - exp(-σ_i δ))`` with ``T_i = exp(-Σ_{j<i} σ_j δ)`` within each ray (NeRF, eq. 3).

    Rays must be packed in order, from near to far. The scan runs over all samples at once in float64 and subtracts its
    value at the start of the ray, so that a ray is exact to float32 whatever optical depth lies on the rays before it.
    """
    rays = torch.arange(n_rays, device=ray_indices.device)
    first = torch.searchsorted(ray_indices, rays)
    last = torch.searchsorted(ray_indices, rays, right=True) - 1
    return _Weights.apply(density * step, first[ray_indices], last[ray_indices])


class _Weights(torch.autograd.Function):
    """Optical depths ``[L, M]`` to weights, given each sample's first and last sample on its ray, ``[M]`` each."""

    @staticmethod
    def forward(ctx, depth: Tensor, first: Tensor, last: Tensor) -> Tensor:
        before = depth.double().cumsum(dim=1) - depth
        reaching = torch.exp(before[:, first] - before).to(depth.dtype)
        weights = reaching * -torch.expm1(-depth)
        ctx.save_for_backward(weights, reaching * torch.exp(-depth), last)
        return weights

    @staticmethod
    def backward(ctx, grad: Tensor):
        # dw_i/dd_i is the light that passes sample i; dw_i/dd_j = -w_i for every j nearer than i.
        weights, passing, last = ctx.saved_tensors
        running = (grad.double() * weights).cumsum(dim=1)
        behind = running[:, last] - running
        return (grad * passing - behind).to(grad.dtype), None, None


def sum_over_rays(
    values: Float[Tensor, "L M C"], ray_indices: Int[Tensor, " M"], n_rays: int
) -> Float[Tensor, "L R C"]:
    """Sum packed sample values into their rays; rays without samples get 0."""
    levels, _, channels = values.shape
    shift = torch.arange(levels, device=ray_indices.device) * n_rays
    rays = (ray_indices[None] + shift[:, None]).view(-1, 1)
    total = values.new_zeros(levels * n_rays, channels)
    total = total.scatter_add(0, rays.expand(-1, channels), values.reshape(-1, channels))
    return total.view(levels, n_rays, channels)
