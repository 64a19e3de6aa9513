"""A picture of what a text-to-video prior draws: rows of frames, several samples for each sentence.

    python -m threestudio_4d.tiny_priors.t2v.sheet t2v-tiny sheet.png --pack motion.npz
    python -m threestudio_4d.tiny_priors.t2v.sheet t2v-tiny sheet.gif --prompts "a fox walking" "a fish swimming"

With a pack, the sentences are captions of its held-out clips (``--training``: of the others), and a true clip stands
above the samples. A sheet that ends in ``.gif`` or ``.mp4`` moves, and has one row a sentence.
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
from ...diffusion.t2v.model import TextToVideoModel, load_t2v
from ...errors import UserError
from ...video_files import write_video
from ..assets.captions import Captions
from ..rendering.scenes import PosedMeshes, is_validation
from ..sampling.clip_sampler import ClipSampler
from ..sd.sheet import label

SHOWN = 8  # frames of a clip on a sheet that does not move
MOVING_SCALE = 2
MOVING_FPS = 12.0


def true_clips(
    pack: str, model: TextToVideoModel, rows: int, training: bool = False, stride: int = 2, limit: int | None = None
) -> tuple[list[str], Tensor]:
    """Captions of clips of a pack, evenly chosen, and one true clip of each, [N, F, 3, S, S].

    Raises:
        UserError: no asset of the pack is held out.
    """
    meshes = PosedMeshes.load(pack, "cpu", limit)
    if not training and not any(is_validation(name) for name in meshes.names):
        raise UserError(f"{pack} has no held-out assets; name sentences with --prompts instead")
    captions = Captions.from_meshes(meshes)
    sampler = ClipSampler(
        meshes, model.frames, model.image_size, 7, not training, captions=captions,
        cfg=ClipSampler.Config(strides=(stride,)),
    )  # fmt: skip
    clips = sampler(16 * rows)
    distinct = clips.caption.unique().tolist()
    chosen = [distinct[round(i * (len(distinct) - 1) / max(rows - 1, 1))] for i in range(min(rows, len(distinct)))]
    first = [int((clips.caption == number).nonzero()[0]) for number in chosen]
    return [captions.sentences[number] for number in chosen], clips.video[first]


@torch.no_grad()
def sample_rows(
    model: TextToVideoModel, prompts: list[str], samples: int, steps: int, guidance_scale: float, seed: int = 0
) -> Tensor:
    """Clips [N, K, F, 3, S, S]: K samples of each of N sentences."""
    negative, rows = model.embed([""]), []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(seed)
        text = model.embed([prompt]).expand(samples, -1, -1)
        options = {"steps": steps, "guidance_scale": guidance_scale, "generator": generator}
        rows.append(model.sample(text, negative, **options).cpu())
    return torch.stack(rows)


def _pictures(frames: Tensor) -> np.ndarray:
    """[N, 3, S, S] in [0, 1] side by side, uint8 RGB [S, N S, 3]."""
    return (torch.cat(list(frames), 2).permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()


def still_sheet(captions: list[str], rows: Tensor) -> np.ndarray:
    """A block for each sentence, a row for each clip of ``rows`` [N, K, F, 3, S, S], uint8 RGB."""
    chosen = torch.linspace(0, rows.shape[2] - 1, min(SHOWN, rows.shape[2])).round().long()
    strips = []
    for caption, clips in zip(captions, rows, strict=True):
        lines = [_pictures(clip[chosen]) for clip in clips]
        strips += [label(caption, lines[0].shape[1]), *lines]
    return np.concatenate(strips)


def moving_sheet(captions: list[str], rows: Tensor) -> list[np.ndarray]:
    """Frames of a sheet that moves: a labelled row for each sentence, its clips side by side, uint8 RGB."""
    frames = []
    for f in range(rows.shape[2]):
        strips = []
        for caption, clips in zip(captions, rows, strict=True):
            line = _pictures(clips[:, f]).repeat(MOVING_SCALE, 0).repeat(MOVING_SCALE, 1)
            strips += [label(caption, line.shape[1]), line]
        frames.append(np.concatenate(strips))
    return frames


def write_sheet(path: Path, captions: list[str], rows: Tensor) -> None:
    """Write clips [N, K, F, 3, S, S] in [0, 1] as a picture or, by the ending of its name, as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gif", ".mp4"):
        write_video(path, moving_sheet(captions, rows), MOVING_FPS)
    else:
        cv2.imwrite(str(path), cv2.cvtColor(still_sheet(captions, rows), cv2.COLOR_RGB2BGR))


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder or hub id")
    parser.add_argument("sheet", type=picture_file)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pack", help="sentences from, and true clips of, its clips")
    source.add_argument("--prompts", nargs="+")
    parser.add_argument("--training", action="store_true", help="clips of assets that the prior was trained on")
    parser.add_argument("--limit", type=checked(Count), help="at most so many animated assets of the pack")
    parser.add_argument("--rows", type=checked(Rows), default=8, help="sentences of a pack")
    parser.add_argument("--samples", type=checked(Rows), default=2, help="clips drawn for each sentence")
    parser.add_argument("--steps", type=checked(Steps), default=40, help="of DDIM")
    parser.add_argument("--guidance-scale", type=checked(Scale), default=4.0)
    parser.add_argument("--seed", type=checked(Seed), default=0)
    args = parser.parse_args(argv)
    model = load_t2v(args.prior, "cuda" if torch.cuda.is_available() else "cpu")
    prompts, truth = args.prompts, None
    if args.pack:
        prompts, truth = true_clips(args.pack, model, args.rows, args.training, limit=args.limit)
    rows = sample_rows(model, prompts, args.samples, args.steps, args.guidance_scale, args.seed)
    if truth is not None:
        rows = torch.cat([truth[:, None], rows], 1)
    write_sheet(args.sheet, prompts, rows)


if __name__ == "__main__":
    sys.exit(main())
