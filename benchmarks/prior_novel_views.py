"""Draw the views of clips with ground truth by the image prior alone, frame by frame, without any 4D model.

    python benchmarks/prior_novel_views.py DATA outputs/prior_views

DATA holds ``<object>/<view>/<frame>.png`` with the input clip in ``ref``. Two folders of results are written, each
``<object>/<view>/<frame>.png``: ``sampled``, and ``one_step`` (the posterior mean). A benchmark file lists them under
``results``.

Pictures have the prior's own size and no alpha: what differs from white by more than 5 % is taken for the object, the
rest is empty.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import ROOT  # noqa: F401 - puts the packages on the import path
from PIL import Image
from rich.progress import track

from threestudio_4d.evaluation.novel_views import NOVEL_VIEWS, read_clip
from threestudio_4d.guidance.zero123_guidance import load_zero123
from threestudio_4d.tiny_priors.zero123.evaluation import NovelViewPairs, one_step_views, sampled_views, silhouette

SIZE = 128  # pixels of what is written: the size that the protocol compares


@torch.no_grad()
def draw(model: torch.nn.Module, reference: np.ndarray, azimuth: float, steps: int) -> dict[str, torch.Tensor]:
    """Views of a clip [N, S, S, 4] from ``azimuth``: a sample of each frame, and its posterior mean; [N, 3, s, s]."""
    device = model.alphas_cumprod.device
    pictures = torch.from_numpy(reference[..., :3]).permute(0, 3, 1, 2).to(device)
    pictures = F.interpolate(pictures, (model.image_size,) * 2, mode="area")
    pairs = NovelViewPairs(pictures, pictures, torch.full((len(pictures),), azimuth, device=device))
    return {"sampled": sampled_views(model, pairs, steps), "one_step": one_step_views(model, pairs)}


def write(images: torch.Tensor, folder: Path) -> None:
    """Frames as RGBA at ``SIZE`` pixels, silhouettes by colour."""
    images = F.interpolate(images.float(), (SIZE, SIZE), mode="bilinear")
    rgba = torch.cat([images, silhouette(images)[:, None].float()], 1).permute(0, 2, 3, 1).clamp(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    for frame, picture in enumerate((255 * rgba).round().byte().cpu().numpy()):
        Image.fromarray(picture).save(folder / f"{frame}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prior", default="zero123-tiny")
    parser.add_argument("--steps", type=int, default=40, help="steps of the sampler")
    parser.add_argument("--objects", nargs="+", help="only these")
    args = parser.parse_args()
    model = load_zero123(args.prior, "cuda" if torch.cuda.is_available() else "cpu")
    clips = sorted(path for path in args.data.iterdir() if (path / "ref").is_dir())
    clips = [clip for clip in clips if not args.objects or clip.name in args.objects]
    for clip in track(clips, "objects"):
        reference = read_clip(clip / "ref", SIZE)
        for view, azimuth in NOVEL_VIEWS.items():
            for method, images in draw(model, reference, azimuth, args.steps).items():
                write(images, args.out / method / clip.name / view)
    print(f"wrote {args.out / 'sampled'} and {args.out / 'one_step'}")


if __name__ == "__main__":
    main()
