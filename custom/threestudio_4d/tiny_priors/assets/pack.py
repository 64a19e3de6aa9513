"""Packs GLB assets into one small file: rest vertices, skin weights, and joint matrices of a few dozen poses.

``python -m threestudio_4d.tiny_priors.assets.pack FOLDER... --out pack.npz`` keeps poses spread over all clips: enough
for priors of single moments. ``--clip-frames 24`` keeps whole clips instead, at most ``--max-clips`` of each asset, for
priors of motion: frame i of n is the pose at i/n of the clip, so a clip that loops goes on from its last pose to its
first.

The pack stores, for every asset, welded vertices (16-bit, in the asset's own box), four 8-bit skin weights, 8-bit sRGB
albedo, faces and flags, and for every pose one half-precision 3x4 matrix a joint. The matrices already turn glTF's y-up
world into ours, (x, y, z) -> (z, x, y), and put each *clip* into the frame of the benchmark: the centre of the box over
the clip at the origin, the farthest vertex over the clip at distance ``RADIUS``.
"""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...arguments import Amount, Count, Rows, checked, pack_file
from ...command import command
from ...errors import UserError
from ...srgb import linear_to_srgb
from .gltf import Asset, Clip, read_glb

RADIUS = 0.72
FORMAT = 1
SMOOTH, UNLIT, DOUBLE_SIDED = 1, 2, 4
Z_UP = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
PER_VERTEX = ("rest", "joints", "weights", "colours")
PER_FACE = ("faces", "flags")


@dataclass
class PackedAsset:
    """One asset. ``matrices[p] @ (rest / 32767)`` is posed vertex positions in the z-up world."""

    name: str
    animated: bool
    rest: np.ndarray  # [V, 3] int16
    joints: np.ndarray  # [V, 4] uint8
    weights: np.ndarray  # [V, 4] uint8, sum 255
    colours: np.ndarray  # [V, 3] uint8 sRGB diffuse albedo
    faces: np.ndarray  # [F, 3] int32
    flags: np.ndarray  # [F] uint8: SMOOTH | UNLIT | DOUBLE_SIDED
    matrices: np.ndarray  # [P, J, 3, 4] float16
    clips: list[str]
    pose_clip: np.ndarray  # [P] int16 index into clips


_KeptClip = tuple[Clip | None, np.ndarray]  # times [T] in seconds


@dataclass
class _Soup:
    """An asset's primitives joined, before posing: vertices split wherever position, colour, skin or crease differ."""

    positions: np.ndarray  # [V, 3]
    joints: np.ndarray  # [V, 4] palette index
    weights: np.ndarray  # [V, 4]
    colours: np.ndarray  # [V, 3] uint8
    faces: np.ndarray  # [F, 3]
    flags: np.ndarray  # [F]
    palette: list[tuple[int, np.ndarray]]  # node, inverse bind


def _join(asset: Asset) -> _Soup:
    """Welds all primitives. Normals keep corners apart on smooth faces only: creases survive, flat faces share."""
    keys: dict[tuple[int, int], int] = {}
    palette: list[tuple[int, np.ndarray]] = []

    def entry(kind: int, joint: int, node: int, inverse: np.ndarray) -> int:
        if (kind, joint) not in keys:
            keys[kind, joint] = len(palette)
            palette.append((node, inverse))
        return keys[kind, joint]

    columns: dict[str, list[np.ndarray]] = {k: [] for k in ("p", "j", "w", "c", "n", "flag")}
    rest = asset.node_matrices(None, np.zeros(1))[0]
    for part in asset.primitives:
        if not len(part.faces):
            continue
        count = len(part.positions)
        joints, weights = np.zeros((count, 4), np.int64), np.zeros((count, 4))
        if part.skin is None:
            joints[:] = entry(-1, part.node, part.node, np.eye(4))
            weights[:, 0] = 1.0
            mirrored = np.linalg.det(rest[part.node][:3, :3]) < 0
        else:
            nodes, inverse = asset.skins[part.skin]
            table = np.array([entry(part.skin, j, int(nodes[j]), inverse[j]) for j in range(len(nodes))])
            best = np.argsort(-part.weights, 1, kind="stable")[:, :4]
            chosen = np.take_along_axis(part.weights, best, 1)
            chosen = np.where(np.isfinite(chosen), chosen, 0.0)
            total = chosen.sum(1, keepdims=True)
            width = best.shape[1]
            weights[:, :width] = np.where(total > 0, chosen / np.maximum(total, 1e-9), np.eye(1, width))
            joints[:, :width] = table[np.take_along_axis(part.joints, best, 1)]
            joints[weights == 0] = joints[:, :1].repeat(4, 1)[weights == 0]
            mirrored = False
        faces = part.faces[:, ::-1] if mirrored else part.faces
        colours = part.colours[:, ::-1] if mirrored else part.colours
        flags = np.full(len(faces), UNLIT * part.unlit + DOUBLE_SIDED * part.double_sided, np.uint8)
        normals = np.zeros((len(faces), 3, 3))
        if part.normals is not None:
            corner = part.normals[faces]
            smooth = (np.abs(corner - corner[:, :1]) > 0.02).any((1, 2))
            flags[smooth] |= SMOOTH
            normals[smooth] = corner[smooth]
        columns["p"].append(part.positions[faces].reshape(-1, 3))
        columns["j"].append(joints[faces].reshape(-1, 4))
        columns["w"].append(weights[faces].reshape(-1, 4))
        columns["c"].append(np.round(linear_to_srgb(colours.clip(0, 1)) * 255).astype(np.int64).reshape(-1, 3))
        columns["n"].append(np.round(normals * 50).astype(np.int64).reshape(-1, 3))
        columns["flag"].append(flags)
    if not columns["p"]:
        raise UserError("the asset holds no triangles")
    p, j, w, c, n = (np.concatenate(columns[k]) for k in ("p", "j", "w", "c", "n"))
    flags = np.concatenate(columns["flag"])
    low, high = np.nanmin(p, 0), np.nanmax(p, 0)
    grid = np.round((np.nan_to_num(p) - low) / max(float((high - low).max()), 1e-12) * 65000).astype(np.int64)
    key = np.concatenate([grid, j, np.round(w * 255).astype(np.int64), c, n], 1).astype(np.int32)
    raw = np.ascontiguousarray(key).view([("", np.int32)] * key.shape[1]).ravel()
    _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # order of first use, which compresses better than sorted keys
    picks, faces = np.sort(first), rank[inverse].reshape(-1, 3)
    bad = ~np.isfinite(p).all(1)[picks]
    a, b, d = faces.T
    good = ~bad[faces].any(1) & (a != b) & (b != d) & (d != a)
    return _Soup(p[picks], j[picks], w[picks], c[picks].astype(np.uint8), faces[good], flags[good], palette)


def _palette_matrices(asset: Asset, soup: _Soup, clip: Clip | None, times: np.ndarray) -> np.ndarray:
    """[T, J, 4, 4] matrices from rest vertices to the z-up world."""
    world = asset.node_matrices(clip, times)
    nodes = np.array([node for node, _ in soup.palette])
    inverse = np.stack([matrix for _, matrix in soup.palette])
    return Z_UP @ world[:, nodes] @ inverse


def skin(points: np.ndarray, joints: np.ndarray, weights: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Linear blend skinning: [T, V, 3] of points [V, 3], joints and weights [V, 4], matrices [T, J, 3|4, 4]."""
    out = np.zeros((len(matrices), len(points), 3), np.float32)
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1).astype(np.float32)
    rows = matrices[:, :, :3].astype(np.float32)
    for k in range(joints.shape[1]):
        used = np.flatnonzero(weights[:, k] > 0)
        if len(used):
            moved = np.einsum("tvij,vj->tvi", rows[:, joints[used, k]], homogeneous[used])
            out[:, used] += weights[used, k, None].astype(np.float32) * moved
    return out


def _normalisation(points: np.ndarray) -> np.ndarray:
    """[4, 4] that puts the box centre of [T, V, 3] at the origin and the farthest point at ``RADIUS``."""
    flat = points.reshape(-1, 3).astype(np.float64)
    centre = (flat.min(0) + flat.max(0)) / 2
    radius = float(np.sqrt(((flat - centre) ** 2).sum(1).max()))
    scale = RADIUS / max(radius, 1e-9)
    out = np.diag([scale, scale, scale, 1.0])
    out[:3, 3] = -scale * centre
    return out


def _clip_counts(clips: int, poses: int) -> list[int]:
    """How many poses each clip gets; with more clips than poses an even subset gets one each."""
    if clips >= poses:
        chosen = set(np.linspace(0, clips - 1, poses).round().astype(int).tolist())
        return [int(i in chosen) for i in range(clips)]
    return [poses // clips + (i < poses % clips) for i in range(clips)]


def _kept_times(asset: Asset, name: str, poses: int, clip_frames: int, max_clips: int | None) -> list[_KeptClip]:
    """Which clips are kept, and at what times in seconds; one resting pose where there is no clip."""
    clips = [clip for clip in asset.clips if clip_frames == 0 or clip.span[1] > clip.span[0]]
    if not clips:
        return [(None, np.zeros(1))]
    if clip_frames == 0:
        phases = [(np.arange(count) + 0.5) / max(count, 1) for count in _clip_counts(len(clips), poses)]
    else:
        from .captions import choose_clips  # which needs packs

        chosen = choose_clips([clip.name for clip in clips], max_clips or len(clips), name)
        clips, phases = [clips[i] for i in chosen], [np.arange(clip_frames) / clip_frames] * len(chosen)
    spans = [clip.span for clip in clips]
    times = [start + (end - start) * phase for (start, end), phase in zip(spans, phases, strict=True)]
    return [(clip, kept) for clip, kept in zip(clips, times, strict=True) if len(kept)]


def pack_asset(
    path: str | Path,
    name: str | None = None,
    poses: int = 45,
    dense: int = 12,
    clip_frames: int = 0,
    max_clips: int | None = None,
) -> PackedAsset:
    """Reads and poses one GLB file.

    Args:
        path: a GLB file.
        name: what to call it; by default the file's name without ending.
        poses: poses kept of an animated asset, spread over its clips and evenly in time.
        dense: extra times of each clip that count for its bounding sphere.
        clip_frames: keep whole clips of so many poses instead, frame i at i / clip_frames of the clip.
        max_clips: at most so many of them, one for each action first (see ``captions.choose_clips``).

    Raises:
        UserError: the file cannot be read, or holds no finite triangles.
    """
    asset = read_glb(path)
    soup = _join(asset)
    weights8 = _eight_bit_weights(soup.weights)
    weights = weights8 / 255.0
    chosen: list[tuple[str, np.ndarray]] = []  # clip name and [T, J, 4, 4] in the world, before normalisation
    spheres: list[np.ndarray] = []
    used = np.zeros(len(soup.palette), bool)
    used[soup.joints[soup.weights > 0]] = True
    name = name or Path(path).stem
    broken = np.zeros(len(soup.palette), bool)
    for clip, kept in _kept_times(asset, name, poses, clip_frames, max_clips):
        times = np.concatenate([kept, np.linspace(*clip.span, dense)]) if clip is not None else kept
        matrices = _palette_matrices(asset, soup, clip, times)
        wrong = ~np.isfinite(matrices).all((2, 3)) & used
        broken |= wrong.any(0)
        chosen.append((clip.name if clip is not None else "", matrices[: len(kept)]))
        spheres.append(matrices)
    # Vertices that a broken joint moves are dropped with their faces.
    lost = (broken[soup.joints] & (soup.weights > 0)).any(1)
    faces_ok = ~lost[soup.faces].any(1)
    faces, flags = soup.faces[faces_ok], soup.flags[faces_ok]
    if not len(faces):
        raise UserError(f"{path} holds no triangles with finite positions")
    vertices = np.unique(faces)
    relabel = np.full(len(soup.positions), -1)
    relabel[vertices] = np.arange(len(vertices))
    faces = relabel[faces].astype(np.int32)
    positions, joints, weights, weights8 = (a[vertices] for a in (soup.positions, soup.joints, weights, weights8))
    colours = soup.colours[vertices]

    matrices = []
    for (_, kept), every in zip(chosen, spheres, strict=True):
        kept, every = np.nan_to_num(kept, posinf=0, neginf=0), np.nan_to_num(every, posinf=0, neginf=0)
        matrices.append(_normalisation(skin(positions, joints, weights, every)) @ kept)
    matrices = np.concatenate(matrices)
    if len(matrices) == 1:  # a still: bake the pose, one identity joint
        positions = skin(positions, joints, weights, matrices)[0].astype(np.float64)
        matrices = np.eye(4)[None, None]
        joints = np.zeros((len(positions), 4), np.int64)
        weights8 = np.tile(np.array([[255, 0, 0, 0]], np.uint8), (len(positions), 1))
    live = np.unique(joints[weights8 > 0])
    if len(live) > 256:
        raise UserError(f"{path} moves its vertices with {len(live)} joints; at most 256 are supported")
    slot = np.zeros(matrices.shape[1], np.int64)
    slot[live] = np.arange(len(live))
    joints, matrices = np.where(weights8 > 0, slot[joints], 0), matrices[:, live]
    low, high = positions.min(0), positions.max(0)
    box = np.eye(4)
    box[:3, :3] *= max(float((high - low).max()) / 2, 1e-9)
    box[:3, 3] = (low + high) / 2
    rest = np.round((positions - box[:3, 3]) / box[0, 0] * 32767).astype(np.int16)
    names = [clip for clip, _ in chosen]
    pose_clip = np.repeat(np.arange(len(chosen)), [len(kept) for _, kept in chosen]).astype(np.int16)
    return PackedAsset(
        name, len(matrices) > 1, rest, joints.astype(np.uint8), weights8, colours, faces, flags,
        (matrices @ box)[:, :, :3].astype(np.float16), names, pose_clip,
    )  # fmt: skip


def _eight_bit_weights(weights: np.ndarray) -> np.ndarray:
    """uint8 weights [V, 4] that sum to 255; the rounding error goes to the largest."""
    out = np.round(weights * 255).astype(np.int64)
    out[:, 0] += 255 - out.sum(1)
    return out.clip(0, 255).astype(np.uint8)


def _planes(array: np.ndarray) -> np.ndarray:
    """Byte planes [itemsize, rows * columns] of row-to-row differences: what the compressor likes."""
    wide = array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    delta = np.diff(wide, axis=0, prepend=np.zeros_like(wide[:1]))
    flat = np.ascontiguousarray(delta.T).reshape(-1)
    return np.ascontiguousarray(flat.view(np.uint8).reshape(-1, array.dtype.itemsize).T)


def _unplanes(planes: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
    size = planes.shape[0]
    flat = np.ascontiguousarray(planes.T).reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size])
    delta = flat.reshape(width, -1).T
    return np.ascontiguousarray(np.cumsum(delta, axis=0, dtype=delta.dtype)).view(dtype)


def write_pack(assets: list[PackedAsset], out: str | Path) -> None:
    """Writes a pack: an ``.npz`` that ``numpy.load`` opens, with LZMA inside."""
    arrays: dict[str, np.ndarray] = {"format": np.array([FORMAT])}
    text = {"names": [a.name for a in assets], "clips": ["\n".join(a.clips) for a in assets]}
    for key, values in text.items():
        arrays[key] = np.frombuffer("\0".join(values).encode(), np.uint8)
    arrays["animated"] = np.array([a.animated for a in assets])
    arrays["counts"] = np.array([[len(a.rest), len(a.faces), *a.matrices.shape[:2]] for a in assets], np.int32)
    arrays["pose_clip"] = np.concatenate([a.pose_clip for a in assets])
    arrays["matrices"] = np.concatenate([a.matrices.reshape(-1, 12) for a in assets]).view(np.uint16)
    for key in ("rest", "joints", "weights", "colours", "faces"):
        arrays[key] = _planes(np.concatenate([getattr(a, key) for a in assets]))
    arrays["flags"] = np.concatenate([a.flags for a in assets])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for key, value in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(value), allow_pickle=False)


def read_pack(path: str | Path, limit: int | None = None) -> list[PackedAsset]:
    """The assets of a pack, at most ``limit`` of each kind (animated, static), evenly chosen.

    Raises:
        UserError: the file is missing or not a pack.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"No asset pack at {path}. Make one with "
            f"python -m threestudio_4d.tiny_priors.assets.pack FOLDER --out {path}"
        )
    with np.load(path, allow_pickle=False) as data:
        if "format" not in data or int(data["format"][0]) != FORMAT:
            raise UserError(f"{path} is not an asset pack of format {FORMAT}. Pack the assets again.")
        names, clips = (bytes(data[k]).decode().split("\0") for k in ("names", "clips"))
        counts, animated, pose_clip = data["counts"], data["animated"], data["pose_clip"]
        matrices = data["matrices"].view(np.float16)
        tables = {
            "rest": _unplanes(data["rest"], 3, np.int16), "joints": _unplanes(data["joints"], 4, np.uint8),
            "weights": _unplanes(data["weights"], 4, np.uint8), "colours": _unplanes(data["colours"], 3, np.uint8),
            "faces": _unplanes(data["faces"], 3, np.int32), "flags": data["flags"],
        }  # fmt: skip
    ends = np.cumsum(counts, 0, dtype=np.int64)
    matrix_ends = np.cumsum(counts[:, 2].astype(np.int64) * counts[:, 3])
    keep = range(len(names))
    if limit is not None:
        kinds = [np.flatnonzero(animated), np.flatnonzero(~animated)]
        keep = sorted(int(k[j]) for k in kinds for j in np.linspace(0, len(k) - 1, min(limit, len(k))).astype(int))
    assets = []
    for i in keep:
        vertices, faces, poses, joints = counts[i]
        rows = {k: slice(ends[i, 0] - vertices, ends[i, 0]) for k in PER_VERTEX}
        rows |= {k: slice(ends[i, 1] - faces, ends[i, 1]) for k in PER_FACE}
        own = {k: tables[k][rows[k]] for k in tables}
        block = matrices[matrix_ends[i] - poses * joints : matrix_ends[i]].reshape(poses, joints, 3, 4)
        clip = pose_clip[ends[i, 2] - poses : ends[i, 2]]
        texts = {"name": names[i], "clips": clips[i].split("\n")}
        assets.append(PackedAsset(animated=bool(animated[i]), matrices=block, pose_clip=clip, **texts, **own))
    return assets


def _glb_files(folder: Path) -> list[Path]:
    """Every GLB file below a folder; ending in either case."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give folders with .glb files.")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".glb" and not path.is_dir())


def pack_assets(
    folders: list[str | Path],
    out: str | Path,
    poses: int = 45,
    progress: bool = False,
    clip_frames: int = 0,
    max_clips: int | None = None,
) -> list[str]:
    """Packs every GLB file below ``folders``, named by its path from its folder on; see ``pack_asset``.

    Returns:
        What was skipped and why.

    Raises:
        UserError: no file could be packed.
    """
    from rich.progress import track

    files = [(path, Path(folder)) for folder in folders for path in _glb_files(Path(folder))]
    assets, skipped = [], []
    for path, root in track(files, "packing", disable=not progress):
        name = path.relative_to(root.parent).with_suffix("").as_posix()
        try:
            assets.append(pack_asset(path, name, poses, clip_frames=clip_frames, max_clips=max_clips))
        except UserError as error:
            skipped.append(f"{name}: {error}")
    if not assets:
        raise UserError(f"No GLB file could be packed from {', '.join(map(str, folders))}. {' '.join(skipped[:3])}")
    write_pack(assets, out)
    return skipped


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="threestudio_4d.tiny_priors.assets.pack", description="Pack GLB assets.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders searched for .glb files")
    parser.add_argument("--out", type=pack_file, required=True, help="the pack to write (.npz)")
    parser.add_argument("--poses", type=checked(Rows), default=45, help="poses kept of each animated asset")
    parser.add_argument("--clip-frames", type=checked(Amount), default=0, help="keep whole clips of so many poses")
    parser.add_argument("--max-clips", type=checked(Count), help="at most, of each asset (with --clip-frames)")
    args = parser.parse_args(argv)
    for flag, value in (("--poses", args.poses), ("--max-clips", args.max_clips or 1)):
        if value < 1:
            parser.error(f"{flag} must be at least 1, not {value}")
    if args.clip_frames < 0 or (args.max_clips and not args.clip_frames):
        parser.error("--max-clips needs --clip-frames, a positive number of poses such as 24")
    began = time.perf_counter()
    skipped = pack_assets(args.folders, args.out, args.poses, True, args.clip_frames, args.max_clips)
    for line in skipped:
        print(f"left out {line}")
    if skipped:
        print(f"{len(skipped)} files were left out, for the reasons above")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
