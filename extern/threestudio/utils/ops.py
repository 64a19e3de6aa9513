"""Tensor operations: activations, chunking, rays and camera matrices.

Cameras: the world is right-handed with z up; a camera looks along its own -z with +y up (OpenGL axes), and the columns
    of
``c2w`` are right, up, backward and position. Angles in this file are radians.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio.utils.errors import UserError

__all__ = [
    "SpecifyGradient",
    "binary_cross_entropy",
    "chunk_batch",
    "convert_pose",
    "cross",
    "dot",
    "get_activation",
    "get_cam_info_gaussian",
    "get_fov_gaussian",
    "get_full_projection_matrix",
    "get_mvp_matrix",
    "get_projection_matrix",
    "get_projection_matrix_gaussian",
    "get_ray_directions",
    "get_rays",
    "perpendicular_component",
    "reflect",
    "scale_tensor",
    "shifted_cosine_decay",
    "shifted_expotional_decay",
    "trunc_exp",
    "validate_empty_rays",
]


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot product of the last dimension, which is kept: [..., C] and [..., C] to [..., 1]."""
    return (x * y).sum(-1, keepdim=True)


def cross(x: Tensor, y: Tensor) -> Tensor:
    """Cross product of the last dimension; unlike ``torch.cross`` without ``dim`` it never picks another one."""
    return torch.linalg.cross(x, y, dim=-1)


def reflect(x: Tensor, n: Tensor) -> Tensor:
    """``x`` mirrored at the direction ``n`` (unit): ``2 (x.n) n - x``."""
    return 2 * dot(x, n) * n - x


def scale_tensor(dat: Tensor, inp_scale: Any, tgt_scale: Any) -> Tensor:
    """Affine map that takes ``inp_scale = (low, high)`` to ``tgt_scale``; bounds are numbers or tensors [C],
    None is (0, 1).
    """
    inp_scale = (0, 1) if inp_scale is None else inp_scale
    tgt_scale = (0, 1) if tgt_scale is None else tgt_scale
    unit = (dat - inp_scale[0]) / (inp_scale[1] - inp_scale[0])
    return unit * (tgt_scale[1] - tgt_scale[0]) + tgt_scale[0]


class _TruncExp(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=15))


class SpecifyGradient(torch.autograd.Function):
    """A loss of value one whose gradient with respect to the input is the tensor given: ``apply(input, gradient)``."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, input_tensor, gt_grad):
        ctx.save_for_backward(gt_grad)
        return torch.ones([1], device=input_tensor.device, dtype=input_tensor.dtype)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, grad_scale):
        (gt_grad,) = ctx.saved_tensors
        return gt_grad * grad_scale, None


trunc_exp = _TruncExp.apply


def _lin2srgb(x: Tensor) -> Tensor:
    low = 0.0031308
    return torch.where(x > low, x.clamp(min=low).pow(1.0 / 2.4) * 1.055 - 0.055, 12.92 * x).clamp(0.0, 1.0)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "lin2srgb": _lin2srgb,
    "exp": torch.exp,
    "shifted_exp": lambda x: torch.exp(x - 1.0),
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1.0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "shifted_softplus": lambda x: F.softplus(x - 1.0),
    "scale_-11_01": lambda x: x * 0.5 + 0.5,
}


def get_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """Activation by name: one of ours, ``None`` or ``"none"`` for identity, else a function of
    ``torch.nn.functional``.
    """
    if name is None:
        return lambda x: x
    key = name.lower()
    if key == "none":
        return lambda x: x
    if key in _ACTIVATIONS:
        return _ACTIVATIONS[key]
    function = getattr(F, key, None)
    if function is None:
        names = ", ".join(["none", *_ACTIVATIONS])
        raise UserError(f"Unknown activation function: {name!r}. Known: {names}, or any of torch.nn.functional.")
    return function


def chunk_batch(func: Callable, chunk_size: int, *args, **kwargs) -> Any:
    """Call ``func`` on slices of at most ``chunk_size`` along dimension 0 of every tensor argument, and join the
    results.

    Args:
        func: returns a tensor, or a tuple, list or dict of tensors and None.
        chunk_size: zero or less calls ``func`` once.
    """
    if chunk_size <= 0:
        return func(*args, **kwargs)
    size = next((a.shape[0] for a in [*args, *kwargs.values()] if isinstance(a, Tensor)), None)
    if size is None:
        raise ValueError("chunk_batch needs at least one tensor among the arguments to know the size of the batch.")

    def part(value: Any, start: int) -> Any:
        return value[start : start + chunk_size] if isinstance(value, Tensor) else value

    collected: dict[Any, list] = defaultdict(list)
    kind: type = Tensor
    for start in range(0, max(size, 1), chunk_size):
        out = func(*(part(a, start) for a in args), **{k: part(v, start) for k, v in kwargs.items()})
        if out is None:
            continue
        if isinstance(out, Tensor):
            items: Any = [(0, out)]
        elif isinstance(out, (tuple, list)):
            kind, items = type(out), enumerate(out)
        elif isinstance(out, dict):
            kind, items = dict, out.items()
        else:
            raise TypeError(
                f"chunk_batch joins tensors, tuples, lists and dicts, but func returned {type(out).__name__}."
            )
        for key, value in items:
            collected[key].append(value if torch.is_grad_enabled() or value is None else value.detach())
    if not collected:
        return None
    joined = {k: None if any(v is None for v in vs) else torch.cat(vs, dim=0) for k, vs in collected.items()}
    if kind is Tensor:
        return joined[0]
    return joined if kind is dict else kind([joined[i] for i in range(len(joined))])


def get_ray_directions(
    H: int,
    W: int,
    focal: float | tuple[float, float],
    principal: tuple[float, float] | None = None,
    use_pixel_centers: bool = True,
) -> Tensor:
    """Directions [H, W, 3] of all pixels in camera axes, with z = -1 and row 0 at the top.

    Args:
        focal: in pixels, one or (fx, fy).
        principal: (cx, cy) in pixels; the centre by default.
        use_pixel_centers: add half a pixel.
    """
    offset = 0.5 if use_pixel_centers else 0.0
    fx, fy = (focal, focal) if isinstance(focal, (int, float)) else focal
    cx, cy = (W / 2, H / 2) if principal is None else principal
    x = (torch.arange(W, dtype=torch.float32) + offset - cx) / fx
    y = -(torch.arange(H, dtype=torch.float32) + offset - cy) / fy
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, -torch.ones_like(x)], dim=-1)


def get_rays(
    directions: Tensor, c2w: Tensor, keepdim: bool = False, noise_scale: float = 0.0, normalize: bool = True
) -> tuple[Tensor, Tensor]:
    """World rays of camera-axes directions.

    Args:
        directions: [N, 3] with ``c2w`` [4, 4] or [N, 4, 4]; [H, W, 3] with [4, 4] or [B, 4, 4]; [B, H, W, 3] with [B,
            4, 4].
        keepdim: return the image shape instead of [rays, 3].
        noise_scale: standard deviation of normal noise added to origins and directions.
        normalize: unit directions; else their component along the viewing axis is 1.

    Returns:
        origins and directions, each [..., 3].
    """
    if directions.shape[-1] != 3 or directions.ndim not in (2, 3, 4):
        raise ValueError(f"directions must be [N, 3], [H, W, 3] or [B, H, W, 3], got {list(directions.shape)}.")
    if directions.ndim == 2 and c2w.ndim == 3 or directions.ndim == 2 or (directions.ndim == 3 and c2w.ndim == 2):
        matrix = c2w
    else:
        matrix = c2w[:, None, None]
        directions = directions if directions.ndim == 4 else directions[None]
    rays_d = (directions[..., None, :] * matrix[..., :3, :3]).sum(-1)
    rays_o = matrix[..., :3, 3].expand(rays_d.shape)
    if noise_scale > 0:
        rays_o = rays_o + torch.randn(3, device=rays_o.device) * noise_scale
        rays_d = rays_d + torch.randn(3, device=rays_d.device) * noise_scale
    if normalize:
        rays_d = F.normalize(rays_d, dim=-1)
    if not keepdim:
        rays_o, rays_d = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
    return rays_o, rays_d


def get_projection_matrix(fovy: Tensor, aspect_wh: float, near: float, far: float) -> Tensor:
    """Perspective matrices [B, 4, 4] for vertical fields of view [B]; y is flipped, so world up has negative clip y."""
    batch = fovy.shape[0]
    matrix = torch.zeros(batch, 4, 4, dtype=torch.float32, device=fovy.device)
    scale = 1.0 / torch.tan(fovy / 2)
    matrix[:, 0, 0] = scale / aspect_wh
    matrix[:, 1, 1] = -scale
    matrix[:, 2, 2] = -(far + near) / (far - near)
    matrix[:, 2, 3] = -2.0 * far * near / (far - near)
    matrix[:, 3, 2] = -1.0
    return matrix


def get_mvp_matrix(c2w: Tensor, proj_mtx: Tensor) -> Tensor:
    """Model-view-projection [B, 4, 4] for column vectors, from rigid ``c2w`` [B, 4, 4] and projections [B, 4, 4]."""
    return proj_mtx @ _inverse_rigid(c2w)


def get_full_projection_matrix(c2w: Tensor, proj_mtx: Tensor) -> Tensor:
    """The product of a view matrix and a projection for row vectors, [4, 4] each (as Gaussian rasterisers want it)."""
    return c2w @ proj_mtx


def convert_pose(C2W: Tensor) -> Tensor:
    """Camera-to-world matrices [..., 4, 4] between OpenGL's axes (y up, looking along -z) and OpenCV's."""
    return C2W * C2W.new_tensor([1.0, -1.0, -1.0, 1.0])


def get_fov_gaussian(P: Tensor) -> tuple[float, float]:
    """Horizontal and vertical field of view in radians of a projection [4, 4]."""
    return 2 * math.atan(1 / float(P[0, 0])), 2 * math.atan(1 / float(P[1, 1]))


def _inverse_rigid(c2w: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4]."""
    rotation = c2w[..., :3, :3].transpose(-1, -2)
    w2c = torch.zeros_like(c2w)
    w2c[..., :3, :3] = rotation
    w2c[..., :3, 3:] = -rotation @ c2w[..., :3, 3:]
    w2c[..., 3, 3] = 1.0
    return w2c


def get_projection_matrix_gaussian(znear: float, zfar: float, fovX: Any, fovY: Any, device: Any = None) -> Tensor:
    """Perspective matrix [4, 4] for column vectors in OpenCV axes (z forward, depth to [0, 1]), for Gaussian
    rasterisers.
    """
    matrix = torch.zeros(4, 4, device=device)
    matrix[0, 0] = 1.0 / math.tan(float(fovX) / 2)
    matrix[1, 1] = 1.0 / math.tan(float(fovY) / 2)
    matrix[2, 2] = zfar / (zfar - znear)
    matrix[2, 3] = -(zfar * znear) / (zfar - znear)
    matrix[3, 2] = 1.0
    return matrix


def get_cam_info_gaussian(
    c2w: Tensor, fovx: Any, fovy: Any, znear: float, zfar: float
) -> tuple[Tensor, Tensor, Tensor]:
    """World-to-camera and full projection [4, 4] for row vectors, and the camera centre [3], in OpenCV axes.

    Args:
        c2w: [4, 4] in OpenGL axes. Results are on its device.
        fovx, fovy: radians.
    """
    world_view = torch.inverse(convert_pose(c2w)).transpose(0, 1).contiguous()
    projection = get_projection_matrix_gaussian(znear, zfar, fovx, fovy, device=c2w.device).transpose(0, 1)
    return world_view, world_view @ projection.to(world_view.dtype), c2w[:3, 3].clone()


def shifted_expotional_decay(a: Any, b: Any, c: Any, r: Tensor) -> Tensor:
    """``a exp(-b r) + c``, the form of Perp-Neg's weights. (Upstream's spelling.)"""
    return a * torch.exp(-b * r) + c


def shifted_cosine_decay(a: Any, b: Any, c: Any, r: Tensor) -> Tensor:
    """``a cos(b r + c) + a``."""
    return a * torch.cos(b * r + c) + a


def binary_cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    """Mean of ``-(t log x + (1 - t) log(1 - x))``; unlike torch's own it is allowed under autocast. Clamp
    ``input`` first.
    """
    return -(target * torch.log(input) + (1 - target) * torch.log(1 - input)).mean()


def perpendicular_component(x: Tensor, y: Tensor) -> Tensor:
    """The part of ``x`` [B, C, H, W] orthogonal to ``y``, both seen as one vector for each item of the batch."""
    dims = (1, 2, 3)
    scale = (x * y).sum(dims, keepdim=True) / (y * y).sum(dims, keepdim=True).clamp(min=1e-6)
    return x - scale * y


def validate_empty_rays(ray_indices: Tensor, t_start: Tensor, t_end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One zero-length sample on ray 0 in place of an empty set of samples, so that what follows has something
    to work on.
    """
    if ray_indices.nelement() > 0:
        return ray_indices, t_start, t_end
    zero = torch.zeros(1, device=t_start.device)
    return torch.zeros(1, dtype=torch.int64, device=ray_indices.device), zero, zero.clone()
