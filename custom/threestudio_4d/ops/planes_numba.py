"""Fused CPU kernel for six-plane lookup; ``planes._interpolate_torch`` is its specification."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .cpu_threads import compiled, inlined, partition, run_parts


@inlined
def texel(position, size):
    """Lower texel, blend weight of the upper one, and d(texel position)/d(position), which is 0 outside the border."""
    half = np.float32(0.5) * np.float32(size - 1)
    u = (position + np.float32(1.0)) * half
    last = np.float32(size - 1)
    if not u > np.float32(0.0):  # also catches NaN, so that no index leaves the plane
        return 0, np.float32(0.0), np.float32(0.0)
    if u >= last:
        return max(size - 2, 0), (np.float32(1.0) if size > 1 else np.float32(0.0)), np.float32(0.0)
    lower = int(u)
    return lower, u - np.float32(lower), half


@inlined
def _corners(resolution, lower, a, b, offset):
    """Rows of the four texels around a point in the plane of axes a and b, whose rows start at ``offset``."""
    row = offset + lower[b] * resolution[a] + lower[a]
    step_a = 1 if resolution[a] > 1 else 0
    step_b = resolution[a] if resolution[b] > 1 else 0
    return row, row + step_a, row + step_b, row + step_a + step_b


@inlined
def _corner_weights(u, v):
    one = np.float32(1.0)
    return (one - u) * (one - v), u * (one - v), (one - u) * v, u * v


@inlined
def _corner_weight_changes(u, v, du, dv):
    """Change of the weights when (u, v) moves by (du, dv)."""
    one = np.float32(1.0)
    return -du * (one - v) - dv * (one - u), du * (one - v) - dv * u, dv * (one - u) - du * v, du * v + dv * u


@inlined
def _scratch(channels):
    """Room for one point: cell, blend weight and slope of each axis, and what the six planes hold there."""
    return np.empty(4, np.int64), np.empty(4, np.float32), np.empty(4, np.float32), np.empty((6, channels), np.float32)


@inlined
def lookup_values(texels, point_index, coords, resolution, lower, fraction, slope, values):
    """Bilinear values of one point in six planes into ``values [6, C]``; fills the axes' cells on the way."""
    channels = texels.shape[1]
    for axis in range(4):
        cell, weight, rate = texel(coords[point_index, axis], resolution[axis])
        lower[axis] = cell
        fraction[axis] = weight
        slope[axis] = rate
    offset = 0
    plane = 0
    for a in range(3):
        for b in range(a + 1, 4):
            r00, r10, r01, r11 = _corners(resolution, lower, a, b, offset)
            w00, w10, w01, w11 = _corner_weights(fraction[a], fraction[b])
            p00, p10, p01, p11 = texels[r00], texels[r10], texels[r01], texels[r11]
            out = values[plane]
            for c in range(channels):
                out[c] = w00 * p00[c] + w10 * p10[c] + w01 * p01[c] + w11 * p11[c]
            offset += resolution[a] * resolution[b]
            plane += 1


@compiled
def _forward(texels, coords, resolution, hybrid, features, start, stop):
    channels = texels.shape[1]
    lower, fraction, slope, values = _scratch(channels)
    for n in range(start, stop):
        lookup_values(texels, n, coords, resolution, lower, fraction, slope, values)
        out = features[n]
        for c in range(channels):
            in_time = values[2, c] * values[4, c] * values[5, c]
            if hybrid:
                out[c] = (values[0, c] + values[1, c] + values[3, c]) * in_time
            else:
                out[c] = values[0, c] * values[1, c] * values[3, c] * in_time


@inlined
def value_gradients(values, grad, hybrid, grads):
    """Gradients ``grads [6, C]`` of the combined feature with respect to the six looked-up values."""
    for c in range(values.shape[1]):
        xy, xz, xt = values[0, c], values[1, c], values[2, c]
        yz, yt, zt = values[3, c], values[4, c], values[5, c]
        g = grad[c]
        g_time = g * xt * yt * zt
        if hybrid:
            space = (xy + xz + yz) * g
            grads[0, c] = g_time
            grads[1, c] = g_time
            grads[3, c] = g_time
        else:
            space = xy * xz * yz * g
            grads[0, c] = g_time * xz * yz
            grads[1, c] = g_time * xy * yz
            grads[3, c] = g_time * xy * xz
        grads[2, c] = space * yt * zt
        grads[4, c] = space * xt * zt
        grads[5, c] = space * xt * yt


@inlined
def scatter_values(grads, resolution, lower, fraction, grad_texels):
    """Add the gradients of six looked-up values to the four texels each came from."""
    channels = grads.shape[1]
    offset = 0
    plane = 0
    for a in range(3):
        for b in range(a + 1, 4):
            r00, r10, r01, r11 = _corners(resolution, lower, a, b, offset)
            w00, w10, w01, w11 = _corner_weights(fraction[a], fraction[b])
            g00, g10, g01, g11 = grad_texels[r00], grad_texels[r10], grad_texels[r01], grad_texels[r11]
            g = grads[plane]
            for c in range(channels):
                g00[c] += w00 * g[c]
            for c in range(channels):
                g10[c] += w10 * g[c]
            for c in range(channels):
                g01[c] += w01 * g[c]
            for c in range(channels):
                g11[c] += w11 * g[c]
            offset += resolution[a] * resolution[b]
            plane += 1


@inlined
def _coordinate_gradient(texels, grads, resolution, lower, fraction, slope, out):
    channels = texels.shape[1]
    for axis in range(4):
        out[axis] = 0.0
    offset = 0
    plane = 0
    for a in range(3):
        for b in range(a + 1, 4):
            r00, r10, r01, r11 = _corners(resolution, lower, a, b, offset)
            u, v = fraction[a], fraction[b]
            one = np.float32(1.0)
            p00, p10, p01, p11 = texels[r00], texels[r10], texels[r01], texels[r11]
            along_a = np.float32(0.0)
            along_b = np.float32(0.0)
            for c in range(channels):
                g = grads[plane, c]
                along_a += g * ((one - v) * (p10[c] - p00[c]) + v * (p11[c] - p01[c]))
                along_b += g * ((one - u) * (p01[c] - p00[c]) + u * (p11[c] - p10[c]))
            out[a] += along_a * slope[a]
            out[b] += along_b * slope[b]
            offset += resolution[a] * resolution[b]
            plane += 1


@compiled
def _backward(texels, coords, resolution, hybrid, grad, grad_texels, grad_coords, to_texels, to_coords, start, stop):
    lower, fraction, slope, values = _scratch(texels.shape[1])
    grads = np.empty_like(values)
    for n in range(start, stop):
        lookup_values(texels, n, coords, resolution, lower, fraction, slope, values)
        value_gradients(values, grad[n], hybrid, grads)
        if to_texels:
            scatter_values(grads, resolution, lower, fraction, grad_texels)
        if to_coords:
            _coordinate_gradient(texels, grads, resolution, lower, fraction, slope, grad_coords[n])


class PlaneLookupCPU(torch.autograd.Function):
    """Packed planes ``[sum R_b R_a, C]`` and coords ``[N, 4]`` to features ``[N, C]``, float32 on the CPU."""

    @staticmethod
    def forward(ctx, texels: Tensor, coords: Tensor, resolution: tuple[int, int, int, int], hybrid: bool) -> Tensor:
        texels, coords = texels.contiguous(), coords.contiguous()
        features = torch.empty(coords.shape[0], texels.shape[1])
        arrays = (texels.detach().numpy(), coords.detach().numpy(), resolution, hybrid, features.numpy())
        run_parts(lambda _, start, stop: _forward(*arrays, start, stop), partition(coords.shape[0]))
        ctx.save_for_backward(texels, coords)
        ctx.resolution, ctx.hybrid = resolution, hybrid
        return features

    @staticmethod
    def backward(ctx, grad: Tensor):
        texels, coords = ctx.saved_tensors
        to_texels, to_coords = ctx.needs_input_grad[:2]
        parts = partition(coords.shape[0])
        # One buffer per part, summed in order: no racing writes, so the result repeats bit for bit.
        buffers = torch.zeros(len(parts), *texels.shape) if to_texels else torch.empty(len(parts), 0, 0)
        grad_coords = torch.empty_like(coords) if to_coords else torch.empty(0, 4)
        inputs = (texels.numpy(), coords.numpy(), ctx.resolution, ctx.hybrid, grad.contiguous().numpy())
        split, moved = buffers.numpy(), grad_coords.numpy()

        run_parts(lambda i, start, stop: _backward(*inputs, split[i], moved, to_texels, to_coords, start, stop), parts)
        grad_texels = buffers.sum(dim=0) if to_texels and len(parts) > 1 else buffers[0]
        return grad_texels if to_texels else None, grad_coords if to_coords else None, None, None


@compiled
def _slopes_forward(texels, coords, resolution, hybrid, cotangent, slopes, start, stop):
    lower, fraction, slope, values = _scratch(texels.shape[1])
    grads = np.empty_like(values)
    for n in range(start, stop):
        lookup_values(texels, n, coords, resolution, lower, fraction, slope, values)
        value_gradients(values, cotangent[n], hybrid, grads)
        _coordinate_gradient(texels, grads, resolution, lower, fraction, slope, slopes[n])


@inlined
def _lookup_tangents(texels, direction, resolution, lower, fraction, slope, tangents):
    """Change of the six looked-up values along ``direction [4]`` into ``tangents [6, C]``."""
    offset = 0
    plane = 0
    for a in range(3):
        for b in range(a + 1, 4):
            r00, r10, r01, r11 = _corners(resolution, lower, a, b, offset)
            du, dv = direction[a] * slope[a], direction[b] * slope[b]
            t00, t10, t01, t11 = _corner_weight_changes(fraction[a], fraction[b], du, dv)
            p00, p10, p01, p11 = texels[r00], texels[r10], texels[r01], texels[r11]
            out = tangents[plane]
            for c in range(texels.shape[1]):
                out[c] = t00 * p00[c] + t10 * p10[c] + t01 * p01[c] + t11 * p11[c]
            offset += resolution[a] * resolution[b]
            plane += 1


@inlined
def _dual_gradients(values, tangents, cotangent, hybrid, by_tangent, by_value, along):
    """Gradients of ``cotangent . d(feature)`` with respect to tangents and values, and ``d(feature)`` itself.

    Values and tangents are dual numbers P + e P'. The feature is their product (or hybrid form); the gradient with
    respect to a plane's tangent is the real part of the product of the others, that with respect to its value the
    dual part.
    """
    for c in range(values.shape[1]):
        a, b, d = values[0, c], values[1, c], values[3, c]
        x, y, z = values[2, c], values[4, c], values[5, c]
        da, db, dd = tangents[0, c], tangents[1, c], tangents[3, c]
        dx, dy, dz = tangents[2, c], tangents[4, c], tangents[5, c]
        w = cotangent[c]
        yz, xz, xy = y * z, x * z, x * y
        dyz, dxz, dxy = dy * z + y * dz, dx * z + x * dz, dx * y + x * dy
        time, dtime = x * yz, dx * yz + x * dyz
        if hybrid:
            space, dspace = a + b + d, da + db + dd
            ra = rb = rd = time
            sa = sb = sd = dtime
        else:
            bd, ad, ab = b * d, a * d, a * b
            dbd, dad, dab = db * d + b * dd, da * d + a * dd, da * b + a * db
            space, dspace = a * bd, da * bd + a * dbd
            ra, rb, rd = bd * time, ad * time, ab * time
            sa, sb, sd = dbd * time + bd * dtime, dad * time + ad * dtime, dab * time + ab * dtime
        by_tangent[0, c], by_tangent[1, c], by_tangent[3, c] = w * ra, w * rb, w * rd
        by_value[0, c], by_value[1, c], by_value[3, c] = w * sa, w * sb, w * sd
        by_tangent[2, c], by_tangent[4, c], by_tangent[5, c] = w * space * yz, w * space * xz, w * space * xy
        by_value[2, c] = w * (dspace * yz + space * dyz)
        by_value[4, c] = w * (dspace * xz + space * dxz)
        by_value[5, c] = w * (dspace * xy + space * dxy)
        along[c] = dspace * time + space * dtime


@inlined
def _scatter_dual(by_tangent, by_value, direction, resolution, lower, fraction, slope, grad_texels):
    channels = by_value.shape[1]
    offset = 0
    plane = 0
    for a in range(3):
        for b in range(a + 1, 4):
            r00, r10, r01, r11 = _corners(resolution, lower, a, b, offset)
            w00, w10, w01, w11 = _corner_weights(fraction[a], fraction[b])
            du, dv = direction[a] * slope[a], direction[b] * slope[b]
            t00, t10, t01, t11 = _corner_weight_changes(fraction[a], fraction[b], du, dv)
            g00, g10, g01, g11 = grad_texels[r00], grad_texels[r10], grad_texels[r01], grad_texels[r11]
            g, h = by_value[plane], by_tangent[plane]
            for c in range(channels):
                g00[c] += w00 * g[c] + t00 * h[c]
            for c in range(channels):
                g10[c] += w10 * g[c] + t10 * h[c]
            for c in range(channels):
                g01[c] += w01 * g[c] + t01 * h[c]
            for c in range(channels):
                g11[c] += w11 * g[c] + t11 * h[c]
            offset += resolution[a] * resolution[b]
            plane += 1


@compiled
def _slopes_backward(
    texels, coords, resolution, hybrid, cotangent, directions, grad_texels, grad_cotangent, to_texels, start, stop
):
    lower, fraction, slope, values = _scratch(texels.shape[1])
    tangents = np.empty_like(values)
    by_tangent = np.empty_like(values)
    by_value = np.empty_like(values)
    for n in range(start, stop):
        lookup_values(texels, n, coords, resolution, lower, fraction, slope, values)
        _lookup_tangents(texels, directions[n], resolution, lower, fraction, slope, tangents)
        _dual_gradients(values, tangents, cotangent[n], hybrid, by_tangent, by_value, grad_cotangent[n])
        if to_texels:
            _scatter_dual(by_tangent, by_value, directions[n], resolution, lower, fraction, slope, grad_texels)


class PlaneSlopesCPU(torch.autograd.Function):
    """``cotangent [N, C] . d(features)/d(coords)`` as ``[N, 4]``; differentiable in planes and cotangent."""

    @staticmethod
    def forward(
        ctx, texels: Tensor, coords: Tensor, cotangent: Tensor, resolution: tuple[int, int, int, int], hybrid: bool
    ) -> Tensor:
        texels, coords, cotangent = texels.contiguous(), coords.contiguous(), cotangent.contiguous()
        slopes = torch.empty_like(coords)
        arrays = (
            texels.detach().numpy(), coords.detach().numpy(), resolution, hybrid, cotangent.detach().numpy(),
            slopes.numpy(),
        )  # fmt: skip
        run_parts(lambda _, start, stop: _slopes_forward(*arrays, start, stop), partition(coords.shape[0]))
        ctx.save_for_backward(texels, coords, cotangent)
        ctx.resolution, ctx.hybrid = resolution, hybrid
        return slopes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, directions: Tensor):
        texels, coords, cotangent = ctx.saved_tensors
        to_texels = ctx.needs_input_grad[0]
        parts = partition(coords.shape[0])
        buffers = torch.zeros(len(parts), *texels.shape) if to_texels else torch.empty(len(parts), 0, 0)
        grad_cotangent = torch.empty_like(cotangent)
        inputs = (
            texels.numpy(), coords.numpy(), ctx.resolution, ctx.hybrid, cotangent.numpy(),
            directions.contiguous().numpy(),
        )  # fmt: skip
        split, moved = buffers.numpy(), grad_cotangent.numpy()
        run_parts(lambda i, start, stop: _slopes_backward(*inputs, split[i], moved, to_texels, start, stop), parts)
        grad_texels = buffers.sum(dim=0) if to_texels else None
        return grad_texels, None, grad_cotangent, None, None
