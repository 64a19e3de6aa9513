"""Real spherical harmonics in the order and with the signs of 3D Gaussian Splatting, degrees 0 to 3."""

from __future__ import annotations

import torch

from threestudio.utils.typing import Float, Tensor

from ...errors import UserError

SH_C0 = 0.28209479177387814


def sh_basis(directions: Float[Tensor, "... 3"], count: int) -> Float[Tensor, "... K"]:
    """The first ``count`` functions at unit directions.

    Raises:
        UserError: ``count`` is not 1, 4, 9 or 16.
    """
    if count not in (1, 4, 9, 16):
        raise UserError(f"spherical harmonics come in 1, 4, 9 or 16 coefficients (degrees 0 to 3), not {count}")
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if count > 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if count > 4:
        basis += [
            1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y),
        ]  # fmt: skip
    if count > 9:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1), 0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1), 1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]  # fmt: skip
    return torch.stack(basis, -1)


def colours_seen(
    sh: Float[Tensor, "... N K 3"], means: Float[Tensor, "... N 3"], eyes: Float[Tensor, "... C 3"]
) -> Float[Tensor, "... C N 3"]:
    """Colours of Gaussians seen from camera positions, at least 0."""
    if sh.shape[-2] == 1:  # the same from everywhere
        colours = (0.5 + SH_C0 * sh[..., 0, :]).clamp_min(0.0)
        return colours[..., None, :, :].expand(*eyes.shape[:-1], *sh.shape[-3:-2], 3)
    directions = torch.nn.functional.normalize(means[..., None, :, :] - eyes[..., None, :], dim=-1)
    basis = sh_basis(directions, sh.shape[-2])
    return (0.5 + torch.einsum("...cnk,...nkd->...cnd", basis, sh)).clamp_min(0.0)
