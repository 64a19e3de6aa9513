"""Fused CUDA kernel for six-plane lookup; ``planes._interpolate_torch`` is its specification.

One program handles a block of points. Planes are channel-last, so that the channels of a texel are one vector load, and
one vector atomic in backward. Forward saves the coordinates alone; backward looks the six values up again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Values that one program holds in a [points, channels] tile.
TILE = 512

#: Kernel arguments that stay run-time values: an axis of one texel must not turn into a compile-time constant.
RESOLUTION = ("RX", "RY", "RZ", "RT")


@triton.jit
def _texel(position, size):
    """Lower texel, step to the upper one, its blend weight, and d(texel position)/d(position)."""
    half = 0.5 * (size - 1).to(tl.float32)
    u = (position + 1.0) * half
    inside = (u > 0.0) & (u < 2.0 * half)
    u = tl.where(u > 0.0, u, 0.0)
    u = tl.where(u < 2.0 * half, u, 2.0 * half)
    lower = tl.minimum(u.to(tl.int32), tl.maximum(size - 2, 0))
    step = tl.minimum(size - 1, 1)
    return lower, step, u - lower.to(tl.float32), tl.where(inside, half, 0.0)


@triton.jit
def _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C: tl.constexpr):
    row = start + ib * size_a + ia
    o00 = row[:, None] * C + c[None, :]
    o10 = o00 + step_a * C
    o01 = o00 + step_b * size_a * C
    return o00, o10, o01, o01 + step_a * C


@triton.jit
def _lookup(texels, start, ia, ib, step_a, step_b, size_a, fa, fb, c, mask, C: tl.constexpr):
    o00, o10, o01, o11 = _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C)
    p00 = tl.load(texels + o00, mask=mask, other=0.0)
    p10 = tl.load(texels + o10, mask=mask, other=0.0)
    p01 = tl.load(texels + o01, mask=mask, other=0.0)
    p11 = tl.load(texels + o11, mask=mask, other=0.0)
    u, v = fa[:, None], fb[:, None]
    return (1.0 - v) * ((1.0 - u) * p00 + u * p10) + v * ((1.0 - u) * p01 + u * p11)


@triton.jit
def _slopes(texels, g, start, ia, ib, step_a, step_b, size_a, fa, fb, c, mask, C: tl.constexpr):
    """Gradients with respect to the two texel positions, ``g`` being the gradient of the looked-up value."""
    o00, o10, o01, o11 = _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C)
    p00 = tl.load(texels + o00, mask=mask, other=0.0)
    p10 = tl.load(texels + o10, mask=mask, other=0.0)
    p01 = tl.load(texels + o01, mask=mask, other=0.0)
    p11 = tl.load(texels + o11, mask=mask, other=0.0)
    u, v = fa[:, None], fb[:, None]
    along_a = tl.sum(g * ((1.0 - v) * (p10 - p00) + v * (p11 - p01)), axis=1)
    along_b = tl.sum(g * ((1.0 - u) * (p01 - p00) + u * (p11 - p10)), axis=1)
    return along_a, along_b


@triton.jit
def _scatter(grad_texels, g, start, ia, ib, step_a, step_b, size_a, fa, fb, c, mask, C: tl.constexpr):
    o00, o10, o01, o11 = _corner_offsets(start, ia, ib, step_a, step_b, size_a, c, C)
    u, v = fa[:, None], fb[:, None]
    tl.atomic_add(grad_texels + o00, g * ((1.0 - u) * (1.0 - v)), mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o10, g * (u * (1.0 - v)), mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o01, g * ((1.0 - u) * v), mask=mask, sem="relaxed")
    tl.atomic_add(grad_texels + o11, g * (u * v), mask=mask, sem="relaxed")


@triton.jit
def _texels_of(coords, n64, live, RX, RY, RZ, RT):
    """``_texel`` of the four coordinates of each point, one after the other."""
    ix, sx, fx, dx = _texel(tl.load(coords + n64 * 4, mask=live, other=0.0), RX)
    iy, sy, fy, dy = _texel(tl.load(coords + n64 * 4 + 1, mask=live, other=0.0), RY)
    iz, sz, fz, dz = _texel(tl.load(coords + n64 * 4 + 2, mask=live, other=0.0), RZ)
    it, st, ft, dt = _texel(tl.load(coords + n64 * 4 + 3, mask=live, other=0.0), RT)
    return ix, sx, fx, dx, iy, sy, fy, dy, iz, sz, fz, dz, it, st, ft, dt


@triton.jit
def _plane_starts(RX, RY, RZ, RT):
    """Rows at which the planes xz, xt, yz, yt, zt start; xy starts at 0."""
    at_xz = RX * RY
    at_xt = at_xz + RX * RZ
    at_yz = at_xt + RX * RT
    at_yt = at_yz + RY * RZ
    return at_xz, at_xt, at_yz, at_yt, at_yt + RY * RT


@triton.jit
def _lookup_six(
    texels, ix, sx, fx, iy, sy, fy, iz, sz, fz, it, st, ft, RX, RY, RZ, RT, c, mask, C: tl.constexpr
):  # fmt: skip
    """Values of the planes xy, xz, xt, yz, yt, zt."""
    at_xz, at_xt, at_yz, at_yt, at_zt = _plane_starts(RX, RY, RZ, RT)
    xy = _lookup(texels, 0, ix, iy, sx, sy, RX, fx, fy, c, mask, C)
    xz = _lookup(texels, at_xz, ix, iz, sx, sz, RX, fx, fz, c, mask, C)
    xt = _lookup(texels, at_xt, ix, it, sx, st, RX, fx, ft, c, mask, C)
    yz = _lookup(texels, at_yz, iy, iz, sy, sz, RY, fy, fz, c, mask, C)
    yt = _lookup(texels, at_yt, iy, it, sy, st, RY, fy, ft, c, mask, C)
    zt = _lookup(texels, at_zt, iz, it, sz, st, RZ, fz, ft, c, mask, C)
    return xy, xz, xt, yz, yt, zt


@triton.jit(do_not_specialize=RESOLUTION)
def _forward_kernel(
    texels, coords, features, count, RX, RY, RZ, RT, C: tl.constexpr, CP: tl.constexpr, HYBRID: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CP)
    live = n < count
    mask = live[:, None] & (c < C)[None, :]
    n64 = n.to(tl.int64)
    ix, sx, fx, _, iy, sy, fy, _, iz, sz, fz, _, it, st, ft, _ = _texels_of(coords, n64, live, RX, RY, RZ, RT)
    xy, xz, xt, yz, yt, zt = _lookup_six(
        texels, ix, sx, fx, iy, sy, fy, iz, sz, fz, it, st, ft, RX, RY, RZ, RT, c, mask, C
    )  # fmt: skip
    out = (xy + xz + yz) * (xt * yt * zt) if HYBRID else xy * xz * yz * (xt * yt * zt)
    tl.store(features + n64[:, None] * C + c[None, :], out, mask=mask)


@triton.jit(do_not_specialize=RESOLUTION)
def _backward_kernel(
    texels, coords, grad, grad_texels, grad_coords, count, RX, RY, RZ, RT, C: tl.constexpr, CP: tl.constexpr,
    HYBRID: tl.constexpr, TO_TEXELS: tl.constexpr, TO_COORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, CP)
    live = n < count
    mask = live[:, None] & (c < C)[None, :]
    n64 = n.to(tl.int64)
    ix, sx, fx, dx, iy, sy, fy, dy, iz, sz, fz, dz, it, st, ft, dt = _texels_of(coords, n64, live, RX, RY, RZ, RT)
    at_xz, at_xt, at_yz, at_yt, at_zt = _plane_starts(RX, RY, RZ, RT)
    xy, xz, xt, yz, yt, zt = _lookup_six(
        texels, ix, sx, fx, iy, sy, fy, iz, sz, fz, it, st, ft, RX, RY, RZ, RT, c, mask, C
    )  # fmt: skip
    g = tl.load(grad + n64[:, None] * C + c[None, :], mask=mask, other=0.0)
    g_space = g * (xt * yt * zt)
    if HYBRID:
        g_time = g * (xy + xz + yz)
        g_xy, g_xz, g_yz = g_space, g_space, g_space
    else:
        g_time = g * (xy * xz * yz)
        g_xy, g_xz, g_yz = g_space * xz * yz, g_space * xy * yz, g_space * xy * xz
    g_xt, g_yt, g_zt = g_time * yt * zt, g_time * xt * zt, g_time * xt * yt
    if TO_TEXELS:
        _scatter(grad_texels, g_xy, 0, ix, iy, sx, sy, RX, fx, fy, c, mask, C)
        _scatter(grad_texels, g_xz, at_xz, ix, iz, sx, sz, RX, fx, fz, c, mask, C)
        _scatter(grad_texels, g_xt, at_xt, ix, it, sx, st, RX, fx, ft, c, mask, C)
        _scatter(grad_texels, g_yz, at_yz, iy, iz, sy, sz, RY, fy, fz, c, mask, C)
        _scatter(grad_texels, g_yt, at_yt, iy, it, sy, st, RY, fy, ft, c, mask, C)
        _scatter(grad_texels, g_zt, at_zt, iz, it, sz, st, RZ, fz, ft, c, mask, C)
    if TO_COORDS:
        xy_x, xy_y = _slopes(texels, g_xy, 0, ix, iy, sx, sy, RX, fx, fy, c, mask, C)
        xz_x, xz_z = _slopes(texels, g_xz, at_xz, ix, iz, sx, sz, RX, fx, fz, c, mask, C)
        xt_x, xt_t = _slopes(texels, g_xt, at_xt, ix, it, sx, st, RX, fx, ft, c, mask, C)
        yz_y, yz_z = _slopes(texels, g_yz, at_yz, iy, iz, sy, sz, RY, fy, fz, c, mask, C)
        yt_y, yt_t = _slopes(texels, g_yt, at_yt, iy, it, sy, st, RY, fy, ft, c, mask, C)
        zt_z, zt_t = _slopes(texels, g_zt, at_zt, iz, it, sz, st, RZ, fz, ft, c, mask, C)
        tl.store(grad_coords + n64 * 4, (xy_x + xz_x + xt_x) * dx, mask=live)
        tl.store(grad_coords + n64 * 4 + 1, (xy_y + yz_y + yt_y) * dy, mask=live)
        tl.store(grad_coords + n64 * 4 + 2, (xz_z + yz_z + zt_z) * dz, mask=live)
        tl.store(grad_coords + n64 * 4 + 3, (xt_t + yt_t + zt_t) * dt, mask=live)


class PlaneLookupCUDA(torch.autograd.Function):
    """Packed planes ``[sum R_b R_a, C]`` and coords ``[N, 4]`` to features ``[N, C]``, float32 on CUDA."""

    @staticmethod
    def forward(ctx, texels: Tensor, coords: Tensor, resolution: tuple[int, int, int, int], hybrid: bool) -> Tensor:
        texels, coords = texels.contiguous(), coords.contiguous()
        count, channels = coords.shape[0], texels.shape[1]
        features = coords.new_empty(count, channels)
        ctx.save_for_backward(texels, coords)
        ctx.resolution, ctx.hybrid = resolution, hybrid
        if count:
            padded = max(triton.next_power_of_2(channels), 4)
            block = TILE // padded
            with _device_of(coords):
                _forward_kernel[(triton.cdiv(count, block),)](
                    texels, coords, features, count, *resolution, C=channels, CP=padded, HYBRID=hybrid, BLOCK=block
                )
        return features

    @staticmethod
    def backward(ctx, grad: Tensor):
        texels, coords = ctx.saved_tensors
        to_texels, to_coords = ctx.needs_input_grad[:2]
        count, channels = coords.shape[0], texels.shape[1]
        grad_texels = torch.zeros_like(texels) if to_texels else None
        grad_coords = torch.zeros_like(coords) if to_coords else None
        if count and (to_texels or to_coords):
            grad = grad.contiguous()
            padded = max(triton.next_power_of_2(channels), 4)
            block = TILE // padded
            with _device_of(coords):
                _backward_kernel[(triton.cdiv(count, block),)](
                    texels, coords, grad, grad_texels if to_texels else texels, grad_coords if to_coords else coords,
                    count, *ctx.resolution, C=channels, CP=padded, HYBRID=ctx.hybrid, TO_TEXELS=to_texels,
                    TO_COORDS=to_coords, BLOCK=block,
                )  # fmt: skip
        return grad_texels, grad_coords, None, None


def _device_of(tensor: Tensor):
    """Make the tensor's GPU current for a launch; on CPU tensors (Triton's interpreter) this does nothing."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)
