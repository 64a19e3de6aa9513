"""Splatting by gsplat (Ye et al., 2024; Apache-2.0) on CUDA: all scenes and cameras in one call.

gsplat compiles its kernels when they are first used (about 40 s on 16 cores; the result is kept in PyTorch's folder of
extensions). That needs nvcc of CUDA's own version; ``TORCH_CUDA_ARCH_LIST=9.0`` builds for one kind of GPU only.
"""

from __future__ import annotations

from threestudio.utils.typing import Float, Tensor

from ...errors import UserError
from ...geometry.gaussians import Gaussians


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
    """Accumulated colour and depth, and opacity, of each of B scenes from each of its C cameras.

    Raises:
        UserError: gsplat is not installed, or its kernels cannot be had.
    """
    try:
        from gsplat.cuda._backend import _C as kernels
        from gsplat.rendering import rasterization
    except ImportError as error:
        raise UserError(
            f"backend: gsplat needs the package gsplat ({error}): pip install gsplat. Or set backend: torch"
        ) from error
    if kernels is None:
        raise UserError(
            "backend: gsplat needs CUDA's compiler to build its kernels once, and found no nvcc. Install the CUDA "
            "toolkit of torch's version, or set backend: torch"
        )
    picture, opacity, _ = rasterization(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colours, viewmats, intrinsics,
        width, height, near_plane=near, eps2d=eps2d, packed=False, render_mode="RGB+D",
    )  # fmt: skip
    return picture, opacity
