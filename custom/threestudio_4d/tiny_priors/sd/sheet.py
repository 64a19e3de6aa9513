"""A picture of what a text-to-image prior draws: one row a sentence, without and with view words.

    python -m threestudio_4d.tiny_priors.sd.sheet sd-tiny sheet.png --pack motion.npz
    python -m threestudio_4d.tiny_priors.sd.sheet sd-tiny sheet.png --prompts "a fox" "a pine tree"

With a pack, the sentences are captions of its held-out assets, and each row begins with a render of one of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ...arguments import Count, Rows, Scale, Seed, Steps, checked, picture_file
from ...command import command
from ...diffusion.sd.model import StableDiffusionModel
from ...errors import UserError
from ...guidance.sd_guidance import load_stable_diffusion
from ..assets.captions import Captions
from ..rendering.scenes import PosedMeshes, is_validation
from ..sampling.view_sampler import ViewSampler
from ..sampling.view_words import VIEW_WORDS

PLAIN_SAMPLES = 4
LABEL_HEIGHT = 14


def held_out_renders(pack: str, size: int, rows: int, limit: int | None = None) -> tuple[list[str], Tensor]:
    """Captions of held-out assets of a pack, evenly chosen, and a render of each, [N, 3, S, S].

    Raises:
        UserError: no asset of the pack is held out.
    """
    meshes = PosedMeshes.load(pack, "cpu", limit)
    if not any(is_validation(name) for name in meshes.names):
        raise UserError(f"{pack} has no held-out assets; name sentences with --prompts instead")
    captions = Captions.from_meshes(meshes)
    views = ViewSampler(meshes, 1, size, seed=7, validation=True, captions=captions)(32 * rows)
    index = captions.asset_caption_index[meshes.pose_asset[views.pose].long()]
    distinct = index.unique().tolist()
    chosen = [distinct[round(i * (len(distinct) - 1) / max(rows - 1, 1))] for i in range(min(rows, len(distinct)))]
    first = [int((index == number).nonzero()[0]) for number in chosen]
    return [captions.sentences[number] for number in chosen], views.images[first, 0]


@torch.no_grad()
def sheet_rows(
    model: StableDiffusionModel, prompts: list[str], steps: int, guidance_scale: float, seed: int = 0
) -> Tensor:
    """Samples [N, PLAIN_SAMPLES + 4, 3, S, S]: of each sentence as it is, and one with each of the view words."""
    rows = []
    negative = model.embed([""])
    for prompt in prompts:
        sentences = [prompt] * PLAIN_SAMPLES + [prompt + words for words in VIEW_WORDS[:4]]
        generator = torch.Generator(negative.device).manual_seed(seed)
        rows.append(model.sample(model.embed(sentences), negative, steps, guidance_scale, generator).cpu())
    return torch.stack(rows)


def label(text: str, width: int) -> np.ndarray:
    """A strip [LABEL_HEIGHT, width, 3] uint8 with a sentence on white."""
    strip = np.full((LABEL_HEIGHT, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (2, LABEL_HEIGHT - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def write_sheet(path: Path, captions: list[str], rows: Tensor) -> None:
    """Write pictures [N, K, 3, S, S] in [0, 1] as N labelled rows of K."""
    strips = []
    for caption, row in zip(captions, rows, strict=True):
        pictures = (torch.cat(list(row), 2).permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
        strips += [label(caption, pictures.shape[1]), cv2.cvtColor(pictures, cv2.COLOR_RGB2BGR)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(strips))


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder or hub id")
    parser.add_argument("sheet", type=picture_file)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pack", help="meshes whose held-out assets are drawn")
    source.add_argument("--prompts", nargs="+")
    parser.add_argument("--rows", type=checked(Rows), default=10, help="sentences taken from a pack")
    parser.add_argument("--limit", type=checked(Count), help="at most that many animated assets and stills of the pack")
    parser.add_argument("--steps", type=checked(Steps), default=40, help="of DDIM")
    parser.add_argument("--guidance-scale", type=checked(Scale), default=1.5)
    parser.add_argument("--seed", type=checked(Seed), default=0)
    args = parser.parse_args(argv)
    model = load_stable_diffusion(args.prior, "cuda" if torch.cuda.is_available() else "cpu", text=True)
    renders = None
    if args.pack:
        args.prompts, renders = held_out_renders(args.pack, model.image_size, args.rows, args.limit)
    rows = sheet_rows(model, args.prompts, args.steps, args.guidance_scale, args.seed)
    header = [f"{PLAIN_SAMPLES} samples", *(words.strip(", ") for words in VIEW_WORDS[:4])]
    if renders is not None:
        rows, header = torch.cat([renders[:, None], rows], 1), ["a render", *header]
    write_sheet(args.sheet, args.prompts, rows)
    print(f"wrote {args.sheet}: columns are {', '.join(header)}")


if __name__ == "__main__":
    sys.exit(main())
