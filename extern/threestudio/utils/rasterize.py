"""A thin layer over nvdiffrast, for extensions that rasterise meshes. nvdiffrast is imported when a context is made."""

from typing import Any

import torch
from torch import Tensor

from threestudio.utils.errors import UserError

__all__ = ["NVDiffRasterizerContext"]


class NVDiffRasterizerContext:
    """Rasterises batches of clip-space triangles.

    Args:
        context_type: ``"cuda"`` or ``"gl"``.
        device: a CUDA device.

    Raises:
        UserError: nvdiffrast is not installed, or another context type.
    """

    def __init__(self, context_type: str, device: Any) -> None:
        try:
            import nvdiffrast.torch as dr
        except ImportError as error:
            raise UserError(
                "Rasterising meshes needs nvdiffrast (https://github.com/NVlabs/nvdiffrast), which is not installed."
            ) from error
        makers = {"gl": dr.RasterizeGLContext, "cuda": dr.RasterizeCudaContext}
        if context_type not in makers:
            raise UserError(f"context_type is 'gl' or 'cuda', got '{context_type}'.")
        self.device = device
        self._dr = dr
        self.ctx = makers[context_type](device=device)

    def vertex_transform(self, verts: Tensor, mvp_mtx: Tensor) -> Tensor:
        """World vertices [V, 3] by matrices [B, 4, 4] to clip space [B, V, 4]."""
        homogeneous = torch.cat([verts, torch.ones_like(verts[:, :1])], dim=-1)
        return torch.matmul(homogeneous, mvp_mtx.transpose(-1, -2))

    def rasterize(self, pos: Tensor, tri: Tensor, resolution: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Barycentrics [B, H, W, 4] and their derivatives, for clip positions [B, V, 4] and triangles [F, 3]."""
        return self._dr.rasterize(self.ctx, pos.float(), tri.int(), resolution, grad_db=True)

    def rasterize_one(self, pos: Tensor, tri: Tensor, resolution: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """As ``rasterize`` for one view: [V, 4] to [H, W, 4]."""
        rast, rast_db = self.rasterize(pos[None], tri, resolution)
        return rast[0], rast_db[0]

    def antialias(self, color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        return self._dr.antialias(color.float(), rast, pos.float(), tri.int())

    def interpolate(
        self, attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None = None, diff_attrs: Any = None
    ) -> tuple[Tensor, Tensor]:
        return self._dr.interpolate(attr.float(), rast, tri.int(), rast_db=rast_db, diff_attrs=diff_attrs)

    def interpolate_one(
        self, attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None = None, diff_attrs: Any = None
    ) -> tuple[Tensor, Tensor]:
        """As ``interpolate`` for attributes [V, C] shared by all views."""
        return self.interpolate(attr[None], rast, tri, rast_db, diff_attrs)
