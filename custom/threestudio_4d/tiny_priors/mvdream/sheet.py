"""A picture of what a text-to-multi-view prior draws for some sentences: a row for each, its views side by side.

    python -m threestudio_4d.tiny_priors.mvdream.sheet mvdream-tiny sheet.png --prompts "a fox" "a red car"
    python -m threestudio_4d.tiny_priors.mvdream.sheet run/prior sheet.png --pack motion.npz --count 12

With ``--pack`` the sentences are captions of held-out assets, and the true views stand at the left of each row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ...arguments import Degrees, Rows, Scale, Seed, Steps, checked, picture_file
from ...command import command
from ...diffusion.mvdream.model import camera_condition
from ...guidance.mvdream_guidance import load_mvdream
from ..assets.captions import asset_caption
from ..rendering.rasterise import DISTANCE, camera_to_world
from ..rendering.scenes import PosedMeshes
from .evaluation import ViewGroups, level_views, sample_views

LABEL = 14  # pixels above each row


def held_out(pack: str, count: int, size: int, device: str) -> tuple[ViewGroups, list[str]]:
    """Level views of ``count`` different held-out assets and their captions."""
    meshes = PosedMeshes.load(pack, device)
    groups = level_views(meshes, 8 * count, size)
    assets = meshes.pose_asset[groups.caption].tolist()
    first = sorted({asset: row for row, asset in reversed(list(enumerate(assets)))}.values())[:count]
    chosen = ViewGroups(groups.images[first], groups.camera[first], groups.caption[first])
    return chosen, [asset_caption(meshes.names[assets[row]], meshes.animated[assets[row]]) for row in first]


def ring(views: int, elevation: float, device: str) -> Tensor:
    """Cameras [V, 16] around an object, the first in front of it."""
    azimuth = torch.arange(views, device=device) * (360.0 / views)
    return camera_condition(camera_to_world(torch.full_like(azimuth, elevation), azimuth, azimuth * 0 + DISTANCE))


def draw_sheet(rows: Tensor, labels: Sequence[str]) -> np.ndarray:
    """Pictures [R, N, 3, S, S] as rows under their labels: BGR bytes [R (S + LABEL), N S, 3]."""
    strips = []
    for pictures, label in zip(rows, labels, strict=True):
        strip = (torch.cat(list(pictures), 2).movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu().numpy()
        strip = np.concatenate([np.full((LABEL, strip.shape[1], 3), 255, np.uint8), strip])
        strips.append(cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))
        cv2.putText(strips[-1], label, (3, LABEL - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate(strips)


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder or hub id")
    parser.add_argument("sheet", type=picture_file)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompts", nargs="+")
    what.add_argument("--pack", help="meshes, whose held-out assets are shown")
    parser.add_argument("--count", type=checked(Rows), default=12, help="held-out assets")
    parser.add_argument("--draws", type=checked(Rows), default=2, help="samples of each sentence")
    parser.add_argument("--steps", type=checked(Steps), default=50, help="of DDIM")
    parser.add_argument("--guidance-scale", type=checked(Scale), default=1.5)
    parser.add_argument("--elevation", type=checked(Degrees), default=0.0, help="of the cameras, degrees")
    parser.add_argument("--seed", type=checked(Seed), default=0)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_mvdream(args.prior, device, text=True)
    if args.pack:
        truth, labels = held_out(args.pack, args.count, model.image_size, device)
        camera, shown = truth.camera, [truth.images]
    else:
        labels, shown = args.prompts, []
        camera = ring(model.views, args.elevation, device).expand(len(labels), -1, -1)
    with torch.no_grad():
        text, empty = model.embed(labels), model.embed([""])
    for draw in range(args.draws):
        scale, seed = args.guidance_scale, args.seed + draw
        shown.append(sample_views(model, text, empty, camera, args.steps, scale, batch_groups=16, seed=seed))
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.sheet), draw_sheet(torch.cat(shown, 1), labels))
    print(f"wrote {args.sheet}: {'true views, then ' if args.pack else ''}{args.draws} samples of each sentence")


if __name__ == "__main__":
    sys.exit(main())
