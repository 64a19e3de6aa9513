"""CUDA kernels for the slopes of six-plane lookup; ``planes._slopes_torch`` is their specification.

Backward treats the six looked-up values as dual numbers P + e P', P' being the change along the incoming direction:
the gradient with respect to P' is the real part of the product of the other planes, that with respect to P the dual
part. Both reach a texel with one atomic, for the texel's weight and its derivative multiply the same row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .planes_triton import (
    RESOLUTION,
    TILE,
    _backward_kernel,
    _corner_offsets,
    _device_of,
    _lookup_six,
    _plane_starts,
    _texels_of,
)


@triton.jit
def _tangent(texels, start, ia, ib, step_a, step_b, size_a, fa, fb, da, db, c, mask, C: tl.constexpr):
    """Change of a looked-up value when the texel position moves by (da, db)."""
    o00, o10, o01, o11 = _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C)
    p00 = tl.load(texels + o00, mask=mask, other=0.0)
    p10 = tl.load(texels + o10, mask=mask, other=0.0)
    p01 = tl.load(texels + o01, mask=mask, other=0.0)
    p11 = tl.load(texels + o11, mask=mask, other=0.0)
    u, v, du, dv = fa[:, None], fb[:, None], da[:, None], db[:, None]
    along_a = (1.0 - v) * (p10 - p00) + v * (p11 - p01)
    along_b = (1.0 - u) * (p01 - p00) + u * (p11 - p10)
    return du * along_a + dv * along_b


@triton.jit
def _scatter_dual(
    grad_texels, g, h, start, ia, ib, step_a, step_b, size_a, fa, fb, da, db, c, mask, C: tl.constexpr
):  # fmt: skip
    """Add value gradients ``g`` and tangent gradients ``h`` to the four texels."""
    o00, o10, o01, o11 = _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C)
    u, v, du, dv = fa[:, None], fb[:, None], da[:, None], db[:, None]
    g00 = g * ((1.0 - u) * (1.0 - v)) - h * (du * (1.0 - v) + dv * (1.0 - u))
    g10 = g * (u * (1.0 - v)) + h * (du * (1.0 - v) - dv * u)
    g01 = g * ((1.0 - u) * v) + h * (dv * (1.0 - u) - du * v)
    g11 = g * (u * v) + h * (du * v + dv * u)
    tl.atomic_add(grad_texels + o00, g00, mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o10, g10, mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o01, g01, mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o11, g11, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=RESOLUTION)
def _slopes_backward_kernel(
    texels, coords, cotangent, directions, grad_texels, grad_cotangent, count, RX, RY, RZ, RT, C: tl.constexpr,
    CP: tl.constexpr, HYBRID: tl.constexpr, TO_TEXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CP)
    live = n < count
    mask = live[:, None] & (c < C)[None, :]
    n64 = n.to(tl.int64)
    ix, sx, fx, dx, iy, sy, fy, dy, iz, sz, fz, dz, it, st, ft, dt = _texels_of(coords, n64, live, RX, RY, RZ, RT)
    dx = dx * tl.load(directions + n64 * 4, mask=live, other=0.0)
    dy = dy * tl.load(directions + n64 * 4 + 1, mask=live, other=0.0)
    dz = dz * tl.load(directions + n64 * 4 + 2, mask=live, other=0.0)
    dt = dt * tl.load(directions + n64 * 4 + 3, mask=live, other=0.0)
    at_xz, at_xt, at_yz, at_yt, at_zt = _plane_starts(RX, RY, RZ, RT)
    xy, xz, xt, yz, yt, zt = _lookup_six(
        texels, ix, sx, fx, iy, sy, fy, iz, sz, fz, it, st, ft, RX, RY, RZ, RT, c, mask, C
    )  # fmt: skip
    d_xy = _tangent(texels, 0, ix, iy, sx, sy, RX, fx, fy, dx, dy, c, mask, C)
    d_xz = _tangent(texels, at_xz, ix, iz, sx, sz, RX, fx, fz, dx, dz, c, mask, C)
    d_xt = _tangent(texels, at_xt, ix, it, sx, st, RX, fx, ft, dx, dt, c, mask, C)
    d_yz = _tangent(texels, at_yz, iy, iz, sy, sz, RY, fy, fz, dy, dz, c, mask, C)
    d_yt = _tangent(texels, at_yt, iy, it, sy, st, RY, fy, ft, dy, dt, c, mask, C)
    d_zt = _tangent(texels, at_zt, iz, it, sz, st, RZ, fz, ft, dz, dt, c, mask, C)
    w = tl.load(cotangent + n64[:, None] * C + c[None, :], mask=mask, other=0.0)
    time = xt * yt * zt
    d_time = d_xt * yt * zt + xt * d_yt * zt + xt * yt * d_zt
    if HYBRID:
        space = xy + xz + yz
        d_space = d_xy + d_xz + d_yz
    else:
        space = xy * xz * yz
        d_space = d_xy * xz * yz + xy * d_xz * yz + xy * xz * d_yz
    tl.store(grad_cotangent + n64[:, None] * C + c[None, :], d_space * time + space * d_time, mask=mask)
    if TO_TEXELS:
        if HYBRID:
            g_xy, g_xz, g_yz = w * d_time, w * d_time, w * d_time
            h_xy, h_xz, h_yz = w * time, w * time, w * time
        else:
            g_xy = w * ((d_xz * yz + xz * d_yz) * time + xz * yz * d_time)
            g_xz = w * ((d_xy * yz + xy * d_yz) * time + xy * yz * d_time)
            g_yz = w * ((d_xy * xz + xy * d_xz) * time + xy * xz * d_time)
            h_xy, h_xz, h_yz = w * xz * yz * time, w * xy * yz * time, w * xy * xz * time
        _scatter_dual(grad_texels, g_xy, h_xy, 0, ix, iy, sx, sy, RX, fx, fy, dx, dy, c, mask, C)
        _scatter_dual(grad_texels, g_xz, h_xz, at_xz, ix, iz, sx, sz, RX, fx, fz, dx, dz, c, mask, C)
        _scatter_dual(grad_texels, g_yz, h_yz, at_yz, iy, iz, sy, sz, RY, fy, fz, dy, dz, c, mask, C)
        g_xt = w * (d_space * yt * zt + space * (d_yt * zt + yt * d_zt))
        g_yt = w * (d_space * xt * zt + space * (d_xt * zt + xt * d_zt))
        g_zt = w * (d_space * xt * yt + space * (d_xt * yt + xt * d_yt))
        _scatter_dual(grad_texels, g_xt, w * space * yt * zt, at_xt, ix, it, sx, st, RX, fx, ft, dx, dt, c, mask, C)
        _scatter_dual(grad_texels, g_yt, w * space * xt * zt, at_yt, iy, it, sy, st, RY, fy, ft, dy, dt, c, mask, C)
        _scatter_dual(grad_texels, g_zt, w * space * xt * yt, at_zt, iz, it, sz, st, RZ, fz, ft, dz, dt, c, mask, C)


class PlaneSlopesCUDA(torch.autograd.Function):
    """``cotangent [N, C] . d(features)/d(coords)`` as ``[N, 4]``; differentiable in planes and cotangent."""

    @staticmethod
    def forward(
        ctx, texels: Tensor, coords: Tensor, cotangent: Tensor, resolution: tuple[int, int, int, int], hybrid: bool
    ) -> Tensor:
        texels, coords, cotangent = texels.contiguous(), coords.contiguous(), cotangent.contiguous()
        count, channels = cotangent.shape
        slopes = torch.empty_like(coords)
        ctx.save_for_backward(texels, coords, cotangent)
        ctx.resolution, ctx.hybrid = resolution, hybrid
        if count:
            padded = max(triton.next_power_of_2(channels), 4)
            block = TILE // padded
            with _device_of(coords):
                # The slopes are what the cotangent sends back to the coordinates.
                _backward_kernel[(triton.cdiv(count, block),)](
                    texels, coords, cotangent, texels, slopes, count, *resolution, C=channels, CP=padded,
                    HYBRID=hybrid, TO_TEXELS=False, TO_COORDS=True, BLOCK=block,
                )  # fmt: skip
        return slopes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, directions: Tensor):
        texels, coords, cotangent = ctx.saved_tensors
        to_texels = ctx.needs_input_grad[0]
        count, channels = cotangent.shape
        grad_texels = torch.zeros_like(texels) if to_texels else None
        grad_cotangent = torch.empty_like(cotangent)
        if count:
            padded = max(triton.next_power_of_2(channels), 4)
            block = TILE // padded
            with _device_of(coords):
                _slopes_backward_kernel[(triton.cdiv(count, block),)](
                    texels, coords, cotangent, directions.contiguous(), grad_texels if to_texels else texels,
                    grad_cotangent, count, *ctx.resolution, C=channels, CP=padded, HYBRID=ctx.hybrid,
                    TO_TEXELS=to_texels, BLOCK=block,
                )  # fmt: skip
        return grad_texels, None, grad_cotangent, None, None
