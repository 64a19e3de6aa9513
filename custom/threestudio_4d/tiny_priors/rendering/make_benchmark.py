"""Writes clips of a pack's held-out assets with ground truth from four more cameras, as ``bench4d`` lays them out.

``python -m threestudio_4d.tiny_priors.rendering.make_benchmark PACK OUT`` makes ``OUT/<object>/<view>/<frame>.png``:
RGBA with straight alpha, one loop of one clip, frame i of n at i/n of it. ``ref`` is the input clip at azimuth 0;
``az-75``, ``az15``, ``az105`` and ``az195`` are the truth. Cameras are level, at distance 2 with a vertical field of
view of 49.1 degrees; the object lies within 0.72 of the origin over the whole clip and is turned about z, since most
motion shows from the side. ``benchmark.json`` names asset, clip and caption.

A pack holds poses at certain times only; between two of them vertices move in a straight line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...arguments import Degrees, Frames, Side, checked
from ...atomic import write_text
from ...command import command
from ...errors import UserError
from ..assets.captions import clip_action, clip_caption
from ..assets.creature import VIEWS, render_view, write_frames
from ..assets.pack import RADIUS, PackedAsset, read_pack
from ..sampling.clip_sampler import closes
from .rasterise import DISTANCE, FOVY_DEG
from .scenes import PosedMeshes, is_validation

HEADING = -50.0  # degrees about z: what faces +x is seen obliquely, facing left
LEAST_POSES = 12  # of a clip worth showing


@dataclass
class Choice:
    """One clip of one asset: the first of its poses and their number, counted within the asset."""

    asset: PackedAsset
    clip: str
    first: int
    count: int

    @property
    def folder(self) -> str:
        """Name of the object's folder: the asset's file and what it does, ``fox_walking``."""
        stem = self.asset.name.rsplit("/", 1)[-1].lower()
        return f"{stem}_{clip_action(self.clip, self.asset.name)}".replace(" ", "_")


def choose(assets: Sequence[PackedAsset], wanted: Sequence[str] = (), clip: str | None = None) -> list[Choice]:
    """One clip of each wanted asset: the first whose name contains ``clip``, or else its first in the pack.

    Args:
        assets: of a pack with whole clips.
        wanted: assets by full name, or by any part of it that only one animated asset has; by default all that are
            held out of training.
        clip: part of a clip's name, in any case.

    Raises:
        UserError: no asset, or more than one, fits a name; an asset has no clip of ``LEAST_POSES`` poses, or none
            of that name.
    """
    animated = [asset for asset in assets if asset.animated]
    if wanted:
        chosen = [_named(animated, name) for name in wanted]
    else:
        chosen = [asset for asset in animated if is_validation(asset.name)]
        if not chosen:
            raise UserError("No animated asset of this pack is held out of training. Name some with --assets.")
    out = []
    for asset in chosen:
        counts = np.bincount(asset.pose_clip, minlength=len(asset.clips))
        whole = [i for i, count in enumerate(counts) if count >= LEAST_POSES]
        if not whole:
            raise UserError(
                f"{asset.name} has no clip of {LEAST_POSES} poses in this pack. Pack it with --clip-frames 24 or more."
            )
        fitting = [i for i in whole if clip is None or clip.lower() in asset.clips[i].lower()]
        if not fitting:
            raise UserError(f"{asset.name} has no clip {clip!r}; it has {', '.join(asset.clips[i] for i in whole)}.")
        first = int(np.flatnonzero(asset.pose_clip == fitting[0])[0])
        out.append(Choice(asset, asset.clips[fitting[0]], first, int(counts[fitting[0]])))
    return out


def _named(animated: Sequence[PackedAsset], name: str) -> PackedAsset:
    exact = [asset for asset in animated if asset.name == name or asset.name.rsplit("/", 1)[-1].lower() == name.lower()]
    fitting = exact or [asset for asset in animated if name.lower() in asset.name.lower()]
    if len(fitting) != 1:
        several = ", ".join(asset.name for asset in fitting[:8])
        what = f"fits several animated assets: {several}" if fitting else "fits no animated asset of this pack"
        raise UserError(f"{name!r} {what}. Give one full name, such as {animated[0].name if animated else 'pack/Fox'}.")
    return fitting[0]


def clip_meshes(
    choice: Choice, frames: int, heading: float = HEADING, device: torch.device | str = "cpu"
) -> PosedMeshes:
    """The clip alone as ``frames`` poses, frame i at i/frames of the loop, within ``RADIUS``, turned by degrees about
    z."""
    asset = choice.asset
    part = PackedAsset(**vars(asset) | {
        "matrices": asset.matrices[choice.first : choice.first + choice.count], "clips": [choice.clip],
        "pose_clip": np.zeros(choice.count, np.int16),
    })  # fmt: skip
    posed = PosedMeshes.from_assets([part], dtype=torch.float32)
    vertices = posed.vertices.view(choice.count, -1, 3)
    position = torch.arange(frames) * (choice.count / frames)
    lower, share = position.long(), (position % 1)[:, None, None]
    upper = (lower + 1) % choice.count if closes(vertices) else (lower + 1).clamp_max(choice.count - 1)
    moved = vertices[lower] * (1 - share) + vertices[upper] * share
    moved = moved * (RADIUS / moved.norm(dim=-1).max().clamp_min(1e-9))
    cosine, sine = math.cos(math.radians(heading)), math.sin(math.radians(heading))
    moved = moved @ torch.tensor([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    return PosedMeshes.from_arrays(
        [moved.numpy()], [asset.faces], [posed.colours.float().numpy()], [posed.flags.numpy()], [asset.name], device
    )


def write_benchmark(
    choices: Sequence[Choice],
    out: str | Path,
    frames: int = 32,
    size: int = 256,
    heading: float = HEADING,
    device: torch.device | str = "cpu",
) -> None:
    """Writes the clips and ``benchmark.json``; objects that would share a folder are numbered."""
    from rich.progress import track

    out = Path(out)
    objects: dict[str, dict[str, str]] = {}
    for choice in track(choices, "rendering"):
        folder, number = choice.folder, 2
        while folder in objects:
            folder, number = f"{choice.folder}_{number}", number + 1
        meshes = clip_meshes(choice, frames, heading, device)
        for view, azimuth in VIEWS.items():
            write_frames(out / folder / view, render_view(meshes, azimuth, size=size))
        name = choice.asset.name
        objects[folder] = {"asset": name, "clip": choice.clip, "caption": clip_caption(name, choice.clip, True)}
    about = {
        "frames": frames, "size": size, "views": VIEWS, "elevation_deg": 0.0, "distance": DISTANCE,
        "fovy_deg": FOVY_DEG, "heading_deg": heading, "radius": RADIUS, "objects": objects,
    }  # fmt: skip
    write_text(out / "benchmark.json", json.dumps(about, indent=1) + "\n")


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="threestudio_4d.tiny_priors.rendering.make_benchmark",
        description="Write benchmark clips of a pack's held-out assets.",
    )
    parser.add_argument("pack", type=Path, help="a pack with whole clips (assets --clip-frames 24)")
    parser.add_argument("out", type=Path, help="folder for the clips")
    parser.add_argument("--assets", nargs="+", default=[], help="names of assets, instead of those held out")
    parser.add_argument("--clip", help="part of the clip's name; by default each asset's first clip in the pack")
    parser.add_argument("--frames", type=checked(Frames), default=32, help="frames of the loop")
    parser.add_argument("--size", type=checked(Side), default=256, help="pixels a side")
    parser.add_argument("--heading", type=checked(Degrees), default=HEADING, help="turn of the object about z, degrees")
    parser.add_argument("--device", default="cpu", help="where to render: cpu or cuda")
    args = parser.parse_args(argv)
    if args.frames < 2 or args.size < 8:
        parser.error("--frames must be at least 2 and --size at least 8")
    choices = choose(read_pack(args.pack), args.assets, args.clip)
    write_benchmark(choices, args.out, args.frames, args.size, args.heading, args.device)
    for choice in choices:
        print(f"{choice.folder}: {clip_caption(choice.asset.name, choice.clip, True)}")
    print(f"{len(choices)} objects in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
