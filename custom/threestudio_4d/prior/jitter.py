"""New shapes and colours from old ones, so that a prior learns to turn things, not to recognise its training assets."""

from __future__ import annotations

import math

import torch

from threestudio.utils.typing import Float, Tensor

from .scenes import PosedMeshes

PALETTE_BINS = 16
PALETTE_SIZE = 8192


class ShapeJitter:
    """Redraws the shape of every pose and the palette of some assets, in place, each time ``refresh`` is called.

    A shape passes through a random linear map (stretch, shear, tilt), three slow waves of displacement and three
    bulges (a head grows, a leg becomes thin), then keeps the radius it had. A quarter of the shapes stay as
    they are. For clips, all poses of an asset change in the same way (``by_asset``): it still moves as it did.

    Args:
        meshes: changed in place by ``refresh``; smooth vertex normals keep their undeformed directions.
        seed: of the generator on the meshes' device.
        kept_share: share of poses that keep their shape.
        stretch: standard deviation of the logarithm of the scale of each axis.
        shear: standard deviation of the off-diagonal entries.
        tilt_deg: standard deviation of the rotation about a random horizontal axis.
        wave: standard deviation of each component of a wave's amplitude, in world units.
        bulge: standard deviation of the factor by which a bulge's middle grows or shrinks; each lies about some vertex.
        recoloured_share: share of assets whose colours are replaced by random ones, equal colours by equal ones.
        by_asset: one change of shape for all poses of an asset, instead of one for each pose.
    """

    def __init__(
        self,
        meshes: PosedMeshes,
        seed: int = 0,
        kept_share: float = 0.25,
        stretch: float = 0.18,
        shear: float = 0.10,
        tilt_deg: float = 8.0,
        wave: float = 0.03,
        bulge: float = 0.3,
        recoloured_share: float = 0.2,
        by_asset: bool = False,
    ) -> None:
        self.meshes = meshes
        self.generator = torch.Generator(meshes.device).manual_seed(seed)
        self.kept_share, self.stretch, self.shear = kept_share, stretch, shear
        self.tilt_deg, self.wave, self.bulge, self.recoloured_share = tilt_deg, wave, bulge, recoloured_share
        self.vertices, self.colours = meshes.vertices.clone(), meshes.colours.clone()
        ends = torch.cat([meshes.pose_vertex[1:], torch.tensor([len(self.vertices)], device=meshes.device)])
        group = meshes.pose_asset.long() if by_asset else torch.arange(meshes.poses, device=meshes.device)
        self.shapes = len(meshes.names) if by_asset else meshes.poses
        self.vertex_shape = torch.repeat_interleave(group, ends - meshes.pose_vertex)
        self.shape_size = torch.bincount(self.vertex_shape, minlength=self.shapes)
        self.shape_start = self.shape_size.cumsum(0) - self.shape_size  # the poses of an asset follow each other
        counts = (meshes.asset_vertex[1:] - meshes.asset_vertex[:-1]).long()
        self.vertex_asset = torch.repeat_interleave(torch.arange(len(counts), device=meshes.device), counts)
        self.radius = self._radius(self.vertices.float())
        bins = (self.colours.float().clamp(0, 1) * (PALETTE_BINS - 1)).round().long()
        self.colour_key = (bins[:, 0] * PALETTE_BINS + bins[:, 1]) * PALETTE_BINS + bins[:, 2]

    def refresh(self) -> None:
        """Draw new shapes and palettes."""
        self.meshes.vertices.copy_(self._shapes())
        self.meshes.colours.copy_(self._palettes())

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.meshes.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.meshes.device)

    def _radius(self, vertices: Float[Tensor, "V 3"]) -> Tensor:
        """Radius of every shape about the origin, over the poses that share it, [number of shapes]."""
        radius = torch.zeros(self.shapes, device=vertices.device)
        return radius.scatter_reduce_(0, self.vertex_shape, vertices.norm(dim=-1), "amax")

    def _shapes(self) -> Float[Tensor, "V 3"]:
        shapes = self.shapes
        strength = self._uniform(shapes) * (self._uniform(shapes) >= self.kept_share)
        log_scale = self.stretch * self._normal(shapes, 3)
        shear = self.shear * self._normal(shapes, 3, 3) * (1 - torch.eye(3, device=strength.device))
        tilt = math.radians(self.tilt_deg) * self._normal(shapes, 2)
        zero = torch.zeros_like(tilt[:, 0])
        rotation = torch.stack([zero, zero, tilt[:, 0], zero, zero, tilt[:, 1], -tilt[:, 0], -tilt[:, 1], zero], -1)
        generator_matrix = torch.diag_embed(log_scale) + shear + rotation.view(shapes, 3, 3)
        linear = torch.linalg.matrix_exp(2 * strength[:, None, None] * generator_matrix)
        vertices = self.vertices.float()
        deformed = torch.einsum("vij,vj->vi", linear[self.vertex_shape], vertices)
        for _ in range(3):
            frequency = 3.0 * self._normal(shapes, 3)
            phase = 2 * math.pi * self._uniform(shapes)
            amplitude = 2 * self.wave * strength[:, None] * self._normal(shapes, 3)
            angle = (frequency[self.vertex_shape] * vertices).sum(-1) + phase[self.vertex_shape]
            deformed += amplitude[self.vertex_shape] * angle.sin()[:, None]
        for _ in range(3):
            middle = self.shape_start + (self._uniform(shapes) * self.shape_size).long()
            width = 0.1 + 0.25 * self._uniform(shapes)
            growth = (2 * self.bulge * strength * self._normal(shapes)).clamp(-0.6, 1.2)
            offset = deformed - deformed[middle][self.vertex_shape]
            fade = torch.exp(-offset.square().sum(-1) / (2 * width.square())[self.vertex_shape])
            deformed += (growth[self.vertex_shape] * fade)[:, None] * offset
        keep_size = self.radius / self._radius(deformed).clamp_min(1e-6)
        return (deformed * keep_size[self.vertex_shape, None]).to(self.vertices.dtype)

    def _palettes(self) -> Float[Tensor, "U 3"]:
        assets = len(self.meshes.names)
        recoloured = self._uniform(assets) < self.recoloured_share
        shift = (self._uniform(assets) * PALETTE_SIZE).long()
        palette = self._uniform(PALETTE_SIZE, 3).square()
        drawn = palette[(self.colour_key + shift[self.vertex_asset]) % PALETTE_SIZE].to(self.colours.dtype)
        return torch.where(recoloured[self.vertex_asset, None], drawn, self.colours)
