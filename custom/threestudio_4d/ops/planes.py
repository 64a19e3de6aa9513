"""Feature lookup in the six coordinate planes of a space-time grid, behind one function.

A point q = (x, y, z, t) in [-1, 1]^4 is projected on the planes of the six coordinate pairs
xy, xz, xt, yz, yt, zt. Every projection is a bilinear lookup, and the six feature vectors are multiplied channel by
channel (K-Planes, arXiv:2301.10241, eq. 1), or mixed as ``(xy + xz + yz) * xt * yt * zt`` in the hybrid form.

Backends: ``torch`` is ``grid_sample`` and the specification, ``numba`` a fused CPU kernel, ``triton`` a fused CUDA
kernel. The fused kernels read the planes channel-last, save only the coordinates, and recompute in backward.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..versions import triton_fits

Backend = Literal["auto", "torch", "numba", "triton"]
BACKENDS = ("auto", "torch", "numba", "triton")

#: Coordinate pairs in the order of the six planes; the first index of a pair runs along the plane's width.
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

#: Widest feature vector that the Triton kernel holds in registers.
MAX_TRITON_CHANNELS = 64


class PreparedPlanes(NamedTuple):
    """Six planes checked and laid out for one backend, for several lookups in the same planes."""

    planes: tuple[Tensor, ...]
    #: flat channel-last copy ``[sum(R_b * R_a), C]`` for the fused kernels
    texels: Tensor | None
    #: texels along x, y, z, t
    resolution: tuple[int, int, int, int]
    backend: str


def prepare_planes(planes: Sequence[Tensor], backend: Backend = "auto") -> PreparedPlanes:
    """Check six planes and lay them out once; the result can stand for the planes in the functions below.

    Gradients flow back to the planes. Errors as in ``interpolate_planes``.
    """
    resolution = _check_planes(planes)
    name = select_backend(backend, planes[0], planes[0].shape[1])
    texels = None if name == "torch" else _pack(planes)
    return PreparedPlanes(tuple(planes), texels, resolution, name)


def interpolate_planes(
    planes: Sequence[Tensor] | PreparedPlanes, coords: Tensor, hybrid: bool = False, backend: Backend = "auto"
) -> Tensor:
    """Look up and combine the features of six planes.

    Args:
        planes: six tensors ``[1, C, R_b, R_a]`` for the pairs (a, b) in ``PAIRS``; planes that share an axis share
            its resolution.
        coords: ``[N, 4]`` points (x, y, z, t) in [-1, 1]; -1 and 1 are the centres of the outermost texels
            (``align_corners=True``), points outside take the border's value.
        hybrid: ``(xy + xz + yz) * xt * yt * zt`` instead of the product of all six.
        backend: "torch", "numba", "triton", or "auto" for the fastest that fits the device and dtype.

    Returns:
        Features ``[N, C]``, differentiable with respect to planes and coords. The numba backend is deterministic for
        a fixed ``torch.get_num_threads()``; the triton backend adds plane gradients with atomics.

    Raises:
        ValueError: shapes, dtypes or the backend do not fit; the message names what was given.
    """
    prepared = _prepared(planes, coords, backend)
    if prepared.backend == "torch":
        return _interpolate_torch(prepared.planes, coords, hybrid)
    if prepared.backend == "numba":
        from .planes_numba import PlaneLookupCPU

        return PlaneLookupCPU.apply(prepared.texels, coords, prepared.resolution, hybrid)
    from .planes_triton import PlaneLookupCUDA

    return PlaneLookupCUDA.apply(prepared.texels, coords, prepared.resolution, hybrid)


def plane_slopes(
    planes: Sequence[Tensor] | PreparedPlanes,
    coords: Tensor,
    cotangent: Tensor,
    hybrid: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Slopes ``[N, 4]`` of ``(cotangent * interpolate_planes(planes, coords)).sum(-1)`` along the four coordinates.

    This is the coordinate gradient of the lookup as a function of its own, differentiable with respect to planes and
    ``cotangent [N, C]`` (not coords), which gives exact normals that can be trained. Arguments and errors otherwise as
    in ``interpolate_planes``. Outside [-1, 1] the slope is 0.
    """
    prepared = _prepared(planes, coords, backend)
    expected = [coords.shape[0], prepared.planes[0].shape[1]]
    if list(cotangent.shape) != expected:
        raise ValueError(f"cotangent must be [N, C] = {expected}, got {list(cotangent.shape)}")
    coords = coords.detach()
    if prepared.backend == "torch":
        return _slopes_torch(prepared.planes, coords, cotangent, hybrid)
    if prepared.backend == "numba":
        from .planes_numba import PlaneSlopesCPU

        return PlaneSlopesCPU.apply(prepared.texels, coords, cotangent, prepared.resolution, hybrid)
    from .planes_triton_slopes import PlaneSlopesCUDA

    return PlaneSlopesCUDA.apply(prepared.texels, coords, cotangent, prepared.resolution, hybrid)


def select_backend(backend: Backend, like: Tensor, channels: int) -> str:
    """The backend that will run: ``backend`` itself after a check, or the fastest that fits when it is "auto"."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown plane backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    single = like.dtype == torch.float32
    on_cuda = like.device.type == "cuda"
    if backend == "auto":
        if on_cuda and single and channels <= MAX_TRITON_CHANNELS and _installed("triton") and triton_fits():
            return "triton"
        if like.device.type == "cpu" and single and _installed("numba"):
            return "numba"
        return "torch"
    if backend != "torch" and not single:
        raise ValueError(f"plane backend {backend!r} works in float32, the planes are {like.dtype}")
    if backend == "numba" and like.device.type != "cpu":
        raise ValueError(f"plane backend 'numba' works on the CPU, the planes are on {like.device}")
    if backend == "triton" and channels > MAX_TRITON_CHANNELS:
        raise ValueError(f"plane backend 'triton' holds at most {MAX_TRITON_CHANNELS} channels, planes have {channels}")
    if backend != "torch" and not _installed(backend):
        raise ValueError(f"plane backend {backend!r} needs the package {backend}, which is not installed")
    if backend == "triton" and not triton_fits():
        raise ValueError("plane backend 'triton' needs Triton 2.1 or newer")
    return backend


def _pack(planes: Sequence[Tensor]) -> Tensor:
    """Copy six ``[1, C, R_b, R_a]`` planes into one flat channel-last buffer ``[sum(R_b * R_a), C]``."""
    return torch.cat([plane[0].permute(1, 2, 0).reshape(-1, plane.shape[1]) for plane in planes])


def _interpolate_torch(planes: Sequence[Tensor], coords: Tensor, hybrid: bool) -> Tensor:
    looked_up = []
    for plane, (a, b) in zip(planes, PAIRS, strict=True):
        grid = torch.stack((coords[:, a], coords[:, b]), dim=-1)[None, None]  # [1, 1, N, 2]
        values = F.grid_sample(plane, grid, mode="bilinear", padding_mode="border", align_corners=True)
        looked_up.append(values[0, :, 0].transpose(0, 1))  # [N, C]
    return _combine(looked_up, hybrid)


def _combine(looked_up: Sequence[Tensor], hybrid: bool) -> Tensor:
    xy, xz, xt, yz, yt, zt = looked_up
    if hybrid:
        return (xy + xz + yz) * xt * yt * zt
    return xy * xz * xt * yz * yt * zt


def _slopes_torch(planes: Sequence[Tensor], coords: Tensor, cotangent: Tensor, hybrid: bool) -> Tensor:
    # grid_sample has no second derivative, so the four corners are gathered by hand.
    with torch.enable_grad():
        coords = coords.clone().requires_grad_()
        looked_up = []
        for plane, (a, b) in zip(planes, PAIRS, strict=True):
            width, height = plane.shape[3], plane.shape[2]
            u = ((coords[:, a] + 1) / 2 * (width - 1)).clamp(0, width - 1)
            v = ((coords[:, b] + 1) / 2 * (height - 1)).clamp(0, height - 1)
            i, j = u.detach().long().clamp(max=max(width - 2, 0)), v.detach().long().clamp(max=max(height - 2, 0))
            p, q = (u - i)[:, None], (v - j)[:, None]
            i2, j2 = (i + 1).clamp(max=width - 1), (j + 1).clamp(max=height - 1)
            texels = plane[0].permute(1, 2, 0)
            near = (1 - p) * texels[j, i] + p * texels[j, i2]
            far = (1 - p) * texels[j2, i] + p * texels[j2, i2]
            looked_up.append((1 - q) * near + q * far)
        features = _combine(looked_up, hybrid)
        trained = cotangent.requires_grad or any(plane.requires_grad for plane in planes)
        return torch.autograd.grad(features, coords, cotangent, create_graph=trained)[0]


def _prepared(planes: Sequence[Tensor] | PreparedPlanes, coords: Tensor, backend: Backend) -> PreparedPlanes:
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ValueError(f"coords must be [N, 4] for (x, y, z, t), got {list(coords.shape)}")
    prepared = planes if isinstance(planes, PreparedPlanes) else prepare_planes(planes, backend)
    first = prepared.planes[0]
    if first.dtype != coords.dtype or first.device != coords.device:
        raise ValueError(f"planes are {first.dtype} on {first.device}, coords are {coords.dtype} on {coords.device}")
    return prepared


def _check_planes(planes: Sequence[Tensor]) -> tuple[int, int, int, int]:
    if len(planes) != 6:
        raise ValueError(f"expected 6 planes (xy, xz, xt, yz, yt, zt), got {len(planes)}")
    resolution: dict[int, int] = {}
    first = planes[0]
    for index, (plane, (a, b)) in enumerate(zip(planes, PAIRS, strict=True)):
        if plane.ndim != 4 or plane.shape[0] != 1 or 0 in plane.shape:
            raise ValueError(f"plane {index} must be [1, C, R_b, R_a] with no empty axis, got {list(plane.shape)}")
        if plane.shape[1] != first.shape[1]:
            raise ValueError(f"plane {index} has {plane.shape[1]} channels, plane 0 has {first.shape[1]}")
        if plane.dtype != first.dtype or plane.device != first.device:
            raise ValueError(
                f"plane {index} is {plane.dtype} on {plane.device}, plane 0 is {first.dtype} on {first.device}"
            )
        for axis, size in ((a, plane.shape[3]), (b, plane.shape[2])):
            if resolution.setdefault(axis, size) != size:
                raise ValueError(
                    f"plane {index} has {size} texels along {'xyzt'[axis]}, an earlier plane has {resolution[axis]}"
                )
    return resolution[0], resolution[1], resolution[2], resolution[3]


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
