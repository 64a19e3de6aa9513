"""A picture of what a Zero123 prior makes of unseen objects, beside the truth, and its scores.

``python -m threestudio_4d.tiny_priors.zero123.sheet PRIOR DATA sheet.png``; DATA as in ``zero123_evaluation``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import torch

from ...arguments import Frames, Scale, Steps, checked, picture_file
from ...command import command
from ...evaluation.novel_views import NOVEL_VIEWS
from ...guidance.zero123_guidance import load_zero123
from .evaluation import NovelViewPairs, baseline_views, one_step_views, sampled_views, scores


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder, hub id or checkpoint")
    parser.add_argument("data", type=Path)
    parser.add_argument("sheet", type=picture_file)
    parser.add_argument("--frames", type=checked(Frames), default=8, help="evenly spaced frames of each object")
    parser.add_argument("--steps", type=checked(Steps), default=40, help="of DDIM")
    parser.add_argument("--guidance-scale", type=checked(Scale), default=2.0)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_zero123(args.prior, device)
    pairs = NovelViewPairs.load(args.data, model.image_size, args.frames).to(device)
    views = baseline_views(pairs) | {
        "one step": one_step_views(model, pairs, batch_size=64),
        "sampled": sampled_views(model, pairs, args.steps, args.guidance_scale, batch_size=64),
    }
    for name, images in views.items():
        print(name, {key: round(value, 3) for key, value in scores(images, pairs).items()})
    rows = []
    for first in range(0, len(pairs.pictures), len(NOVEL_VIEWS) * args.frames):
        part = slice(first, first + len(NOVEL_VIEWS))
        columns = [
            pairs.pictures[first : first + 1],
            pairs.targets[part],
            views["one step"][part],
            views["sampled"][part],
        ]
        rows.append(torch.cat(list(torch.cat(columns)), 2))
    sheet = (torch.cat(rows, 1).permute(1, 2, 0).clamp(0, 1) * 255).byte().cpu().numpy()
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    sys.exit(main())
