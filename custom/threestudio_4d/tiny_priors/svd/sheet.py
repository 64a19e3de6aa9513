"""Clips that an image-to-video prior makes of pictures of held-out objects, beside the truth, and its scores.

    python -m threestudio_4d.tiny_priors.svd.sheet svd-tiny sheet.png --pack motion.npz
    python -m threestudio_4d.tiny_priors.svd.sheet svd-tiny sheet.png --data BENCHMARK --buckets 30 127 220

Three rows for each clip: the truth, one step from noise (the posterior mean), a sample; the first column is given.
With ``--buckets``, a sample for each of these motion buckets instead of one at the bucket of the true clip.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor

from ...arguments import Bucket, Rows, Scale, Steps, checked, picture_file
from ...command import command
from ...diffusion.svd.model import SVDModel, load_svd
from ..rendering.scenes import PosedMeshes
from ..sampling.clip_sampler import ClipSampler
from .evaluation import VideoClips, baseline_clips, motion, one_step_clips, reconstructed_clips, sampled_clips, scores


def held_out_clips(pack: str, model: SVDModel, count: int, device: str) -> tuple[VideoClips, list[int]]:
    """Clips of held-out assets, and the numbers of the first clip of each asset."""
    meshes = PosedMeshes.load(pack, device)
    sampler = ClipSampler(meshes, model.num_frames, model.image_size, seed=1, validation=True)
    parts = [sampler(min(64, count - start)) for start in range(0, count, 64)]
    assets = meshes.pose_asset[torch.cat([part.pose[:, 0] for part in parts])].tolist()
    clips = VideoClips(torch.cat([part.video for part in parts]), torch.cat([part.fps for part in parts]))
    return clips, sorted({asset: row for row, asset in reversed(list(enumerate(assets)))}.values())


def draw_sheet(blocks: Sequence[Sequence[Tensor]], gap: int = 6) -> Tensor:
    """Rows of frames [T, 3, S, S], a block for each clip: bytes [H, W, 3]; the first frame stands apart."""
    lines = []
    for block in blocks:
        for row in block:
            first = torch.nn.functional.pad(row[0], (0, gap), value=1.0)
            lines.append(torch.cat([first, *row[1:]], 2))
        lines.append(torch.ones_like(lines[-1][:, :gap]))
    return (torch.cat(lines, 1).permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu()


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="built-in name, folder or hub id")
    parser.add_argument("sheet", type=picture_file)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pack", help="assets with whole clips; the held-out ones are shown")
    source.add_argument("--data", type=Path, help="folder of <object>/ref/<frame>.png")
    parser.add_argument("--rows", type=checked(Rows), default=6, help="clips on the sheet, of different objects")
    parser.add_argument("--clips", type=checked(Rows), default=64, help="clips of the pack that are scored")
    parser.add_argument("--steps", type=checked(Steps), default=25, help="of the sampler")
    parser.add_argument("--max-guidance-scale", type=checked(Scale), default=2.0)
    parser.add_argument("--buckets", type=checked(Bucket), nargs="*", default=[], help="motion buckets to sample at")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_svd(args.prior, device)
    if args.pack:
        clips, chosen = held_out_clips(args.pack, model, args.clips, device)
    else:
        clips = VideoClips.load(args.data, model.num_frames, model.image_size, starts=1).to(device)
        chosen = list(range(len(clips)))
    videos = baseline_clips(clips) | {
        "reconstructed": reconstructed_clips(model, clips),
        "one step": one_step_clips(model, clips),
        "sampled": sampled_clips(model, clips, args.steps, args.max_guidance_scale),
    }
    for name, video in videos.items():
        print(name, json.dumps({key: round(value, 3) for key, value in scores(video, clips).items()}))
    chosen = chosen[: args.rows]
    shown = VideoClips(clips.video[chosen], clips.fps[chosen])
    rows = [shown.video, videos["one step"][chosen]]
    if args.buckets:
        for bucket in args.buckets:
            rows.append(sampled_clips(model, shown, args.steps, args.max_guidance_scale, bucket=bucket))
            print(f"motion at bucket {bucket:g}: {motion(rows[-1]).mean().item():.2f} of 255")
    else:
        rows.append(videos["sampled"][chosen])
    sheet = draw_sheet(list(zip(*rows, strict=True))).numpy()
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    sys.exit(main())
