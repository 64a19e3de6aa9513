"""Posed meshes in flat buffers on one device, ready for the batch rasteriser, and the drawing of poses from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from threestudio.utils.typing import Tensor

from ..assets.pack import DOUBLE_SIDED, SMOOTH, PackedAsset, read_pack

VALIDATION_PERCENT = 3
SPLIT_PARTS = 3


def is_validation(name: str, percent: float = VALIDATION_PERCENT) -> bool:
    """Whether an asset is held out, decided by a hash of its name, so that it never moves between runs or machines.

    Only the last three parts of the name count (``animated/animals_pack/Fox``): packing a folder further up makes names
    longer and leaves the split as it is.
    """
    key = "/".join(name.split("/")[-SPLIT_PARTS:])
    digest = hashlib.sha256(f"split 0: {key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < percent / 100.0 * 2**32


@dataclass
class PoseTable:
    """A drawable subset of assets, animated ones apart from stills. All tensors [number of assets], long."""

    first: Tensor  # first pose of each asset
    count: Tensor  # how many poses it has


@dataclass
class PosedMeshes:
    """Triangle meshes of A assets in P poses. World: z up, normalised so that everything fits the benchmark's camera.

    ``pose_asset[p]`` names the asset of a pose; the pose's vertices start at ``pose_vertex[p]`` in ``vertices`` and
    ``normals``, while faces (indices local to the asset), flags and colours exist once an asset.
    """

    vertices: Tensor  # [sum over poses of V, 3] float16 or float32
    normals: Tensor  # [sum over poses of V, 3] float16, smooth vertex normals (zero where no smooth face touches)
    pose_vertex: Tensor  # [P] long
    pose_asset: Tensor  # [P] int32
    faces: Tensor  # [sum of F, 3] int32
    flags: Tensor  # [sum of F] uint8, see assets.SMOOTH ...
    asset_face: Tensor  # [A + 1] int32, faces of asset a are asset_face[a]:asset_face[a + 1]
    colours: Tensor  # [sum of V, 3] float16 linear diffuse albedo
    asset_vertex: Tensor  # [A + 1] int32
    names: list[str]
    clips: list[list[str]]
    pose_clip: list[int]
    animated: list[bool]
    pose_counts: list[int]

    @property
    def device(self) -> torch.device:
        return self.vertices.device

    @property
    def poses(self) -> int:
        return self.pose_asset.shape[0]

    def pose_range(self, asset: int | str) -> range:
        """The poses of an asset given by number or name."""
        index = self.names.index(asset) if isinstance(asset, str) else asset
        first = sum(self.pose_counts[:index])
        return range(first, first + self.pose_counts[index])

    @classmethod
    def load(
        cls,
        pack: str | Path,
        device: torch.device | str = "cpu",
        limit: int | None = None,
        dtype: torch.dtype = torch.float16,
        double_sided: bool = True,
    ) -> PosedMeshes:
        """Skins every pose of a pack on ``device``.

        Args:
            pack: a file written by ``assets.pack_assets``, or several, with commas between.
            limit: at most that many animated assets and as many stills, evenly chosen (for CPUs: all of the
                Quaternius models are some ten million posed vertices).
            dtype: of the posed vertices.
            double_sided: draw back faces whatever the asset says, as the benchmark does: many fins and leaves are
                single sheets, which would vanish from behind.
        """
        assets = [asset for path in str(pack).split(",") for asset in read_pack(path, limit)]
        return cls.from_assets(assets, device, dtype, double_sided)

    @classmethod
    def from_assets(
        cls,
        assets: Sequence[PackedAsset],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float16,
        double_sided: bool = True,
    ) -> PosedMeshes:
        """Skins packed assets; see ``load``."""

        def pose(i: int) -> Tensor:
            asset = assets[i]
            matrices = torch.from_numpy(np.ascontiguousarray(asset.matrices)).to(device).float()  # [P, J, 3, 4]
            rest = torch.from_numpy(asset.rest.astype(np.float32) / 32767.0).to(device)
            if len(matrices) == 1 and matrices.shape[1] == 1:
                return (rest @ matrices[0, 0, :, :3].T + matrices[0, 0, :, 3])[None]
            joints = torch.from_numpy(asset.joints.astype(np.int64)).to(device)
            weights = torch.from_numpy(asset.weights.astype(np.float32) / 255.0).to(device)
            out = torch.zeros(len(matrices), len(rest), 3, device=device)
            for k in range(4):
                chosen = matrices[:, joints[:, k]]  # [P, V, 3, 4]
                moved = (chosen[..., :3] * rest[:, None, :]).sum(-1) + chosen[..., 3]
                out += weights[:, k, None] * moved
            return out

        albedo = [_linear(torch.from_numpy(a.colours.astype(np.float32) / 255.0)) for a in assets]
        both = np.uint8(DOUBLE_SIDED if double_sided else 0)
        return cls._build(
            pose, [a.faces for a in assets], [a.flags | both for a in assets], albedo, [a.name for a in assets],
            [a.clips for a in assets], [a.pose_clip for a in assets], device, dtype,
        )  # fmt: skip

    @classmethod
    def from_arrays(
        cls,
        vertices: Sequence[np.ndarray],
        faces: Sequence[np.ndarray],
        colours: Sequence[np.ndarray],
        flags: Sequence[np.ndarray] | None = None,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> PosedMeshes:
        """Meshes that are posed already, kept as they are (float32, not normalised).

        Args:
            vertices: for every asset [poses, V, 3] (or [V, 3] for one pose), z-up world.
            faces: for every asset [F, 3], counter-clockwise seen from the front.
            colours: for every asset [V, 3], linear albedo in [0, 1].
            flags: for every asset [F] of assets.SMOOTH | UNLIT | DOUBLE_SIDED; 0 by default.
        """
        posed = [v[None] if v.ndim == 2 else v for v in vertices]
        flags = [np.zeros(len(f), np.uint8) for f in faces] if flags is None else flags
        names = [f"mesh{i}" for i in range(len(posed))] if names is None else list(names)
        return cls._build(
            lambda i: torch.from_numpy(np.ascontiguousarray(posed[i], np.float32)).to(device),
            [np.asarray(f, np.int32) for f in faces], [np.asarray(f, np.uint8) for f in flags],
            [torch.from_numpy(np.ascontiguousarray(c, np.float32)) for c in colours], list(names),
            [[""] for _ in posed], [np.zeros(len(p), np.int16) for p in posed], device, torch.float32,
        )  # fmt: skip

    @classmethod
    def _build(
        cls,
        pose: Callable[[int], Tensor],
        faces: list[np.ndarray],
        flags: list[np.ndarray],
        albedo: list[Tensor],
        names: list[str],
        clips: list[list[str]],
        pose_clip: list[np.ndarray],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> PosedMeshes:
        counts = [len(c) for c in pose_clip]
        sizes = [len(a) for a in albedo]
        total = sum(c * s for c, s in zip(counts, sizes, strict=True))
        vertices = torch.empty(total, 3, dtype=dtype, device=device)
        normals = torch.zeros(total, 3, dtype=torch.float16, device=device)
        starts, start = [], 0
        for i in range(len(names)):
            posed = pose(i)
            end = start + counts[i] * sizes[i]
            vertices[start:end] = posed.reshape(-1, 3).to(dtype)
            smooth = np.flatnonzero(flags[i] & SMOOTH)
            if len(smooth):
                index = torch.from_numpy(faces[i][smooth].astype(np.int64)).to(device)
                normals[start:end] = _vertex_normals(posed, index).reshape(-1, 3).half()
            starts += [start + k * sizes[i] for k in range(counts[i])]
            start = end

        def edges(values: list[int]) -> Tensor:
            return torch.tensor([0, *np.cumsum(values).tolist()], dtype=torch.int32, device=device)

        return cls(
            vertices=vertices, normals=normals, pose_vertex=torch.tensor(starts, dtype=torch.long, device=device),
            pose_asset=torch.tensor(np.repeat(np.arange(len(names)), counts), dtype=torch.int32, device=device),
            faces=torch.from_numpy(np.concatenate(faces)).to(device),
            flags=torch.from_numpy(np.concatenate(flags)).to(device),
            asset_face=edges([len(f) for f in faces]), colours=torch.cat(albedo).half().to(device),
            asset_vertex=edges(sizes), names=names, clips=clips,
            pose_clip=[int(c) for part in pose_clip for c in part], animated=[c > 1 for c in counts],
            pose_counts=counts,
        )  # fmt: skip

    def table(self, animated: bool, validation: bool | None) -> PoseTable:
        """The poses to draw from: animated assets or stills, of the training or validation split (None: both)."""
        firsts = np.cumsum([0, *self.pose_counts[:-1]])
        chosen = [
            i
            for i, name in enumerate(self.names)
            if self.animated[i] == animated and (validation is None or is_validation(name) == validation)
        ]
        first = torch.tensor([int(firsts[i]) for i in chosen], dtype=torch.long, device=self.device)
        count = torch.tensor([self.pose_counts[i] for i in chosen], dtype=torch.long, device=self.device)
        return PoseTable(first, count)

    def sampler(self, validation: bool | None = False, animated_share: float = 0.7) -> PoseSampler:
        """Draws poses, ``animated_share`` of them from animated assets."""
        moving, still = self.table(True, validation), self.table(False, validation)
        if not len(moving.first):
            animated_share = 0.0
        elif not len(still.first):
            animated_share = 1.0
        if not len(moving.first) and not len(still.first):  # a tiny pack's split may be empty
            return self.sampler(None, animated_share)
        return PoseSampler(moving, still, animated_share)


@dataclass
class PoseSampler:
    """Uniform over assets of the chosen kind, then over the asset's poses. No host synchronisation."""

    moving: PoseTable
    still: PoseTable
    animated_share: float

    def __call__(self, u: Tensor) -> Tensor:
        """[N] long pose numbers from uniform numbers u [3, N] in [0, 1): kind, asset, pose."""

        def pick(table: PoseTable) -> Tensor:
            number = len(table.first)
            if not number:
                return torch.zeros(u.shape[1], dtype=torch.long, device=table.first.device)
            asset = (u[1] * number).long().clamp_max(number - 1)
            poses = table.count[asset]
            return table.first[asset] + torch.minimum((u[2] * poses).long(), poses - 1)

        return torch.where(u[0] < self.animated_share, pick(self.moving), pick(self.still))


def _linear(c: Tensor) -> Tensor:
    return torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _vertex_normals(posed: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals [P, V, 3] of vertices [P, V, 3] over faces [F, 3]; zero where no face touches."""
    corner = posed[:, faces]  # [P, F, 3, 3]
    cross = torch.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0], dim=-1)
    out = torch.zeros_like(posed)
    for k in range(3):
        out.index_add_(1, faces[:, k], cross)
    return torch.nn.functional.normalize(out, dim=-1, eps=1e-20)
