"""The terms of Consistent4D's objective as pure functions of rendered images and samples.

Shapes: ``L`` cascade levels, ``B`` view-time samples, ``H`` by ``W`` pixels, ``M`` samples along rays.
Functions of one value per level return ``[L]``; the others return a scalar. Nothing here knows about weights.
"""

from __future__ import annotations

from threestudio.utils.typing import Float, Tensor


def reconstruction_loss(
    prediction: Float[Tensor, "L B H W C"], target: Float[Tensor, "B H W C"]
) -> Float[Tensor, "*L"]:
    """Mean squared error of every level against the same picture (the terms ``rgb`` and ``mask``)."""
    return (prediction - target).square().flatten(1).mean(dim=1)


def orientation_loss(
    weights: Float[Tensor, "L M 1"],
    normals: Float[Tensor, "L M 3"],
    directions: Float[Tensor, "M 3"],
    opacity: Float[Tensor, "L B H W 1"],
) -> Float[Tensor, ""]:
    """Penalise normals that face away from the camera: ``sum sg(w) max(n.d, 0)^2 / #{pixels with opacity > 0}``.

    ``directions`` are unit ray directions, pointing away from the camera. The weights carry no gradient.
    """
    facing_away = (normals * directions).sum(dim=-1, keepdim=True).clamp(min=0)
    visible = (opacity > 0).sum().clamp(min=1)
    return (weights.detach() * facing_away.square()).sum() / visible


def normal_consistency_3d(
    normals: Float[Tensor, "L M 3"], perturbed_normals: Float[Tensor, "L M 3"]
) -> Float[Tensor, ""]:
    """Mean absolute difference between the normals of samples and of their jittered neighbours
    (``3d_normal_smooth``).
    """
    return _mean_or_zero((normals - perturbed_normals).abs())


def normal_smoothness_2d(comp_normal: Float[Tensor, "*N H W 3"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring pixels of the normal picture, down the rows plus along the columns."""
    down = comp_normal[..., 1:, :, :] - comp_normal[..., :-1, :, :]
    along = comp_normal[..., :, 1:, :] - comp_normal[..., :, :-1, :]
    return down.square().mean() + along.square().mean()


def sparsity_loss(opacity: Float[Tensor, "*N 1"]) -> Float[Tensor, ""]:
    """``mean sqrt(opacity^2 + 0.01)``: prefers empty space."""
    return (opacity.square() + 0.01).sqrt().mean()


def opaque_loss(opacity: Float[Tensor, "*N 1"]) -> Float[Tensor, ""]:
    """Binary entropy of the opacity, clamped to [0.001, 0.999]: prefers pixels that are either empty or solid."""
    clamped = opacity.clamp(1e-3, 1 - 1e-3)
    return -(clamped * clamped.log() + (1 - clamped) * (1 - clamped).log()).mean()


def z_variance_loss(z_variance: Float[Tensor, "*N 1"], opacity: Float[Tensor, "*N 1"]) -> Float[Tensor, ""]:
    """Mean variance of depth along the rays of pixels with opacity above one half; 0 where there are none."""
    solid = (opacity > 0.5).to(z_variance.dtype)
    return (z_variance * solid).sum() / solid.sum().clamp(min=1)


def _mean_or_zero(values: Tensor) -> Tensor:
    """The mean, or a zero that still belongs to the graph when there is nothing to average."""
    return values.mean() if values.numel() else values.sum()
