"""A picture of what priors are trained on: clips and sets of views of a pack, under their captions.

``python -m threestudio_4d.tiny_priors.assets.data_sheet PACK sheet.png`` shows whether an own folder of assets reads
well: captions, poses that move, objects that fill the picture. It ends by counting captions and naming those of the
clips.
"""

from __future__ import annotations

import argparse
import sys

import torch
from PIL import Image, ImageDraw

from threestudio.utils.typing import Float, Tensor

from ...arguments import Count, Frames, Rows, Seed, Side, checked, picture_file
from ...command import command
from ..rendering.scenes import PosedMeshes
from ..sampling.clip_sampler import ClipSampler
from ..sampling.view_sampler import ViewSampler
from .captions import Captions

LINE = 14  # pixels of a row's caption


def sheet(rows: list[tuple[str, Float[Tensor, "N 3 S S"]]]) -> Image.Image:
    """Rows of pictures in [0, 1], each under a line of text."""
    size = rows[0][1].shape[-1]
    width = max(len(pictures) for _, pictures in rows) * size
    image = Image.new("RGB", (width, len(rows) * (size + LINE)), "white")
    draw = ImageDraw.Draw(image)
    for number, (text, pictures) in enumerate(rows):
        top = number * (size + LINE)
        draw.text((4, top + 2), text, fill="black")
        strip = (torch.cat(list(pictures), 2).permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
        image.paste(Image.fromarray(strip), (0, top + LINE))
    return image


def data_rows(
    meshes: PosedMeshes, count: int, size: int = 64, frames: int = 8, validation: bool | None = False, seed: int = 0
) -> list[tuple[str, Tensor]]:
    """``count`` clips, then as many sets of four views, with their captions; a pack without clips has views only."""
    captions, rows = Captions.from_meshes(meshes), []
    if any(meshes.animated):
        sampler = ClipSampler(meshes, frames, size, seed, validation, captions=captions)
        batch = sampler(count)
        for caption, fps, video in zip(batch.caption.tolist(), batch.fps.tolist(), batch.video, strict=True):
            rows.append((f"{captions.sentences[caption]}, {fps:.0f} frames/s", video))
    views = ViewSampler(meshes, 4, size, seed, validation, captions)(count)
    pairs = zip(views.caption.tolist(), views.images, views.azimuth[:, 0].tolist(), strict=True)
    return rows + [(f"{captions.sentences[c]}, from {azimuth:.0f} deg", images) for c, images, azimuth in pairs]


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", help="a pack with whole clips; several separated by commas")
    parser.add_argument("sheet", type=picture_file, help="the picture to write")
    parser.add_argument("--count", type=checked(Rows), default=12, help="clips, and sets of views")
    parser.add_argument("--size", type=checked(Side), default=64, help="pixels a side of each picture")
    parser.add_argument("--frames", type=checked(Frames), default=8, help="frames of a clip")
    parser.add_argument("--limit", type=checked(Count), help="read at most so many animated assets and stills")
    parser.add_argument("--held-out", action="store_true", help="the assets that training does not see")
    parser.add_argument("--seed", type=checked(Seed), default=0)
    args = parser.parse_args(argv)
    meshes = PosedMeshes.load(args.pack, limit=args.limit)
    rows = data_rows(meshes, args.count, args.size, args.frames, args.held_out, args.seed)
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(args.sheet, optimize=True)
    captions = Captions.from_meshes(meshes)
    moving = [p for p, asset in enumerate(meshes.pose_asset.tolist()) if meshes.animated[asset]]
    said = sorted({captions.sentences[i] for i in captions.pose_caption[moving].tolist()})
    print(f"{len(meshes.names)} assets, {len(captions.sentences)} captions; of clips:")
    print("; ".join(said))
    print(f"wrote {args.sheet}")


if __name__ == "__main__":
    sys.exit(main())
