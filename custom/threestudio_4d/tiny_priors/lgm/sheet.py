"""A picture of what an LGM makes of unseen objects from one picture each, beside the truth, and its scores.

``python -m threestudio_4d.tiny_priors.lgm.sheet PRIOR DATA sheet.png``; DATA as in ``zero123.evaluation``. One row
an object: the picture, the true views, those of Gaussians from the picture and three sides that a Zero123 draws, and
those of Gaussians from the picture alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import torch

from ...arguments import Frames, checked, picture_file
from ...command import command
from ...diffusion.lgm.checkpoint import load_lgm
from ...evaluation.novel_views import NOVEL_VIEWS
from ...guidance.zero123_guidance import load_zero123
from ..zero123.evaluation import NovelViewPairs
from .evaluation import scores, views_of_pictures


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder or published checkpoint")
    parser.add_argument("data", type=Path)
    parser.add_argument("sheet", type=picture_file)
    parser.add_argument("--zero123", default="zero123-tiny", help="prior that draws the sides")
    parser.add_argument("--frames", type=checked(Frames), default=8, help="evenly spaced frames of each object")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, zero123 = load_lgm(args.prior, device), load_zero123(args.zero123, device)
    pairs = NovelViewPairs.load(args.data, model.image_size, args.frames).to(device)
    views = {
        name: views_of_pictures(model, prior, pairs, batch_size=16)
        for name, prior in (("drawn sides", zero123), ("one picture", None))
    }
    for name, drawn in views.items():
        print(name, {key: round(value, 3) for key, value in scores(*drawn, pairs).items()})
    rows = []
    for first in range(0, len(pairs.pictures), len(NOVEL_VIEWS) * args.frames):
        part = slice(first, first + len(NOVEL_VIEWS))
        drawn = [images[part] for images, _ in views.values()]
        columns = [pairs.pictures[first : first + 1], pairs.targets[part], *drawn]
        rows.append(torch.cat(list(torch.cat(columns)), 2))
    sheet = (torch.cat(rows, 1).permute(1, 2, 0).clamp(0, 1) * 255).byte().cpu().numpy()
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    sys.exit(main())
