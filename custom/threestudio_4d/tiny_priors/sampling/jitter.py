"""New shapes and colours from old ones, so that a prior learns to turn things, not to recognise its training assets."""

from __future__ import annotations

import math

import torch

from threestudio.utils.typing import Float, Tensor

from ..rendering.scenes import PosedMeshes

PALETTE_BINS = 16
PALETTE_SIZE = 8192
CHUNK_VERTICES = 1 << 22


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
        asset = meshes.pose_asset.long()
        self.pose_shape = asset if by_asset else torch.arange(meshes.poses, device=meshes.device)
        self.shapes = len(meshes.names) if by_asset else meshes.poses
        self.pose_size = (meshes.asset_vertex[1:] - meshes.asset_vertex[:-1]).long()[asset]
        self.chunks = _chunks(meshes.pose_vertex.tolist(), len(self.vertices))
        counts = (meshes.asset_vertex[1:] - meshes.asset_vertex[:-1]).long()
        self.vertex_asset = torch.repeat_interleave(torch.arange(len(counts), device=meshes.device), counts)
        self.radius = torch.zeros(self.shapes, device=meshes.device)
        for poses, rows in self.chunks:
            own = self.pose_shape[poses][self._vertex_pose(poses, rows)]
            self._grow(self.radius, self.vertices[rows].float(), own)
        bins = (self.colours.float().clamp(0, 1) * (PALETTE_BINS - 1)).round().long()
        self.colour_key = (bins[:, 0] * PALETTE_BINS + bins[:, 1]) * PALETTE_BINS + bins[:, 2]

    def refresh(self) -> None:
        """Draw new shapes and palettes."""
        self._reshape(self.meshes.vertices)
        self.meshes.colours.copy_(self._palettes())

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.meshes.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.meshes.device)

    def _vertex_pose(self, poses: slice, rows: slice) -> Tensor:
        """The pose of each vertex of a chunk, counted from the chunk's first, [rows]."""
        size = self.pose_size[poses]
        number = torch.arange(poses.stop - poses.start, device=size.device)
        return torch.repeat_interleave(number, size, output_size=rows.stop - rows.start)

    def _grow(self, radius: Tensor, vertices: Float[Tensor, "V 3"], vertex_shape: Tensor) -> None:
        """Raises radii [number of shapes] about the origin to those of some vertices."""
        radius.scatter_reduce_(0, vertex_shape, vertices.norm(dim=-1), "amax")

    def _reshape(self, out: Float[Tensor, "V 3"]) -> None:
        """Writes new shapes, a chunk of poses at a time: all assets at once would need ten times their memory."""
        shapes = self.shapes
        strength = self._uniform(shapes) * (self._uniform(shapes) >= self.kept_share)
        linear = self._linear_maps(strength)
        waves = [
            (
                3.0 * self._normal(shapes, 3),  # wave vector
                2 * math.pi * self._uniform(shapes),
                2 * self.wave * strength[:, None] * self._normal(shapes, 3),  # amplitude
            )
            for _ in range(3)
        ]
        bulges = [
            (
                self._uniform(shapes),  # which vertex
                0.1 + 0.25 * self._uniform(shapes),  # width
                (2 * self.bulge * strength * self._normal(shapes)).clamp(-0.6, 1.2),  # growth
            )
            for _ in range(3)
        ]
        radius = torch.zeros_like(self.radius)
        for poses, rows in self.chunks:
            pose = self._vertex_pose(poses, rows)
            shape = self.pose_shape[poses]
            vertices, own = self.vertices[rows].float(), shape[pose]
            deformed = torch.einsum("vij,vj->vi", linear[own], vertices)
            for frequency, phase, amplitude in waves:
                deformed += amplitude[own] * ((frequency[own] * vertices).sum(-1) + phase[own]).sin()[:, None]
            size = self.pose_size[poses]
            start = self.meshes.pose_vertex[poses] - rows.start
            for which, width, growth in bulges:
                middle = deformed[start + (which[shape] * size).long()]  # the same vertex in all poses of a shape
                offset = deformed - middle[pose]
                fade = torch.exp(-offset.square().sum(-1) / (2 * width.square())[own])
                deformed += (growth[own] * fade)[:, None] * offset
            self._grow(radius, deformed, own)
            out[rows] = deformed.to(out.dtype)
        scale = self.radius / radius.clamp_min(1e-6)
        for poses, rows in self.chunks:
            own = self.pose_shape[poses][self._vertex_pose(poses, rows)]
            out[rows] = (out[rows].float() * scale[own, None]).to(out.dtype)

    def _linear_maps(self, strength: Tensor) -> Float[Tensor, "S 3 3"]:
        """Random stretch, shear and tilt of each shape."""
        shapes = len(strength)
        log_scale = self.stretch * self._normal(shapes, 3)
        shear = self.shear * self._normal(shapes, 3, 3) * (1 - torch.eye(3, device=strength.device))
        tilt = math.radians(self.tilt_deg) * self._normal(shapes, 2)
        zero = torch.zeros_like(tilt[:, 0])
        rotation = torch.stack([zero, zero, tilt[:, 0], zero, zero, tilt[:, 1], -tilt[:, 0], -tilt[:, 1], zero], -1)
        generator_matrix = torch.diag_embed(log_scale) + shear + rotation.view(shapes, 3, 3)
        return torch.linalg.matrix_exp(2 * strength[:, None, None] * generator_matrix)

    def _palettes(self) -> Float[Tensor, "U 3"]:
        assets = len(self.meshes.names)
        recoloured = self._uniform(assets) < self.recoloured_share
        shift = (self._uniform(assets) * PALETTE_SIZE).long()
        palette = self._uniform(PALETTE_SIZE, 3).square()
        drawn = palette[(self.colour_key + shift[self.vertex_asset]) % PALETTE_SIZE].to(self.colours.dtype)
        return torch.where(recoloured[self.vertex_asset, None], drawn, self.colours)


def _chunks(starts: list[int], total: int) -> list[tuple[slice, slice]]:
    """Ranges of poses, and of their vertices, of at most ``CHUNK_VERTICES`` (or of one pose)."""
    out, first = [], 0
    ends = [*starts[1:], total]
    for pose, end in enumerate(ends):
        last = pose + 1 == len(ends)
        if last or ends[pose + 1] - starts[first] > CHUNK_VERTICES:
            out.append((slice(first, pose + 1), slice(starts[first], end)))
            first = pose + 1
    return out
