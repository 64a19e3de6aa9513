"""Train Consistent4D on clips with ground truth from other views, and compare with its ablations and with baselines.

    python benchmarks/consistent4d_bench4d.py DATA --out benchmarks/results/consistent4d_bench4d.json

DATA holds ``<object>/<view>/<frame>.png``: the input clip in ``ref``, ground truth in ``az-75``, ``az15``, ``az105``
and ``az195``. All objects use one configuration, given by ``--config`` and overrides; runs that have finished are not
repeated. Scores are means over frames, views and objects at 128 x 128 on white.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np
import torch
import torch.nn.functional as F
from common import ROOT, environment, write_report

from threestudio_4d.evaluation.novel_views import NOVEL_VIEWS, read_clip, score_views
from threestudio_4d.guidance.zero123_guidance import load_zero123
from threestudio_4d.prior.zero123_evaluation import NovelViewPairs, one_step_views, sampled_views, silhouette

SIZE = 128
VARIANTS = {
    "full": [],
    "no ICL": ["system.loss.lambda_vif=0"],
    "one level": ["system.geometry.grid_size=[[64,64,64,16]]", "system.loss.lambda_sds_0=0.1"],
}


def read_views(folder: Path) -> dict[str, np.ndarray]:
    return {view: read_clip(folder / view, SIZE) for view in NOVEL_VIEWS}


def baselines(reference: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The input clip shown for every view; the same, mirrored for the view from behind."""
    return {
        "copy": dict.fromkeys(NOVEL_VIEWS, reference),
        "mirror": {view: reference[:, :, ::-1] if view == "az195" else reference for view in NOVEL_VIEWS},
    }


@torch.no_grad()
def prior_alone(model: torch.nn.Module, reference: np.ndarray, steps: int) -> dict[str, dict[str, np.ndarray]]:
    """What the prior draws frame by frame: samples, and its posterior mean; enlarged, silhouettes by colour."""
    device = model.alphas_cumprod.device
    pictures = torch.from_numpy(reference[..., :3]).permute(0, 3, 1, 2).to(device)
    pictures = F.interpolate(pictures, (model.image_size,) * 2, mode="area")
    clips: dict[str, dict[str, np.ndarray]] = {"prior sampled": {}, "prior one step": {}}
    for view, azimuth in NOVEL_VIEWS.items():
        pairs = NovelViewPairs(pictures, pictures, torch.full((len(pictures),), azimuth, device=device))
        drawn = {"prior sampled": sampled_views(model, pairs, steps), "prior one step": one_step_views(model, pairs)}
        for name, images in drawn.items():
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear")
            rgba = torch.cat([images, silhouette(images)[:, None].float()], 1)
            clips[name][view] = rgba.permute(0, 2, 3, 1).float().cpu().numpy()
    return clips


def train(args: argparse.Namespace, variant: str, clip: Path, device: int | None) -> dict[str, float | str]:
    """One run of ``launch.py``; returns its scores and seconds, or why it failed."""
    name = variant.replace(" ", "_")
    frames = args.runs / name / clip.name / "save" / "eval"
    seconds_file = args.runs / name / clip.name / "seconds.json"
    if not seconds_file.exists():
        command = [sys.executable, str(ROOT / "launch.py"), "--config", str(args.config), "--train"]
        command += [f"exp_root_dir={args.runs}", f"name={name}", f"tag={clip.name}", "data.test_splits=[eval]"]
        command += [f"data.image_seq_path={clip / 'ref'}", *VARIANTS[variant], *args.overrides]
        variables = dict(os.environ, OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="passive")
        if device is not None:
            variables["CUDA_VISIBLE_DEVICES"] = str(device)
        start = time.time()
        result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        (args.runs / f"{name}-{clip.name}.log").write_text(result.stdout + result.stderr)
        if result.returncode:
            return {"error": (result.stderr.strip().splitlines() or ["no message"])[-1]}
        seconds_file.write_text(json.dumps(time.time() - start))
    scores = score_views(read_views(frames), read_views(clip))
    return scores | {"seconds": json.loads(seconds_file.read_text())}


def table(results: dict[str, dict[str, dict]]) -> str:
    """Markdown: one row a method, means over objects, then PSNR / IoU of each object."""
    objects = sorted({name for scores in results.values() for name in scores})
    lines = [
        "| method | PSNR dB | IoU | flicker | " + " | ".join(objects) + " |",
        "| --- " * (4 + len(objects)) + "|",
    ]
    for method, scores in results.items():
        good = [score for score in scores.values() if "psnr" in score]
        if not good:
            continue
        means = [statistics.mean(score[key] for score in good) for key in ("psnr", "iou", "flicker")]
        cells = [f"{means[0]:.2f}", f"{means[1]:.3f}", f"{means[2]:.2f}"]
        for name in objects:
            score = scores.get(name, {})
            cells.append(f"{score['psnr']:.2f} / {score['iou']:.3f}" if "psnr" in score else "failed")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "consistent4d.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "bench4d", help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="JSON of all scores")
    parser.add_argument("--objects", nargs="+", help="only these")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, spread over the GPUs")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a run")
    parser.add_argument(
        "--prior", default="zero123-tiny", help="prior of the frame-by-frame baseline; '' leaves it out"
    )
    parser.add_argument("--prior-steps", type=int, default=40)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="after --: overrides for every run")
    args = parser.parse_intermixed_args()
    args.runs, args.data = args.runs.resolve(), args.data.resolve()
    args.runs.mkdir(parents=True, exist_ok=True)
    clips = sorted(path for path in args.data.iterdir() if (path / "ref").is_dir())
    clips = [clip for clip in clips if not args.objects or clip.name in args.objects]

    gpus = torch.cuda.device_count()
    devices: Queue[int | None] = Queue()
    for worker in range(args.workers):
        devices.put(worker % gpus if gpus else None)

    results: dict[str, dict[str, dict]] = {}

    def job(variant: str, clip: Path) -> None:
        device = devices.get()
        try:
            results.setdefault(variant, {})[clip.name] = train(args, variant, clip, device)
        finally:
            devices.put(device)
        print(variant, clip.name, results[variant][clip.name], flush=True)

    with ThreadPoolExecutor(args.workers) as pool:
        pending = [pool.submit(job, variant, clip) for variant in args.variants for clip in clips]
        for future in pending:
            future.result()

    model = load_zero123(args.prior, "cuda" if gpus else "cpu") if args.prior else None
    for clip in clips:
        truth, reference = read_views(clip), read_clip(clip / "ref", SIZE)
        drawn = baselines(reference) | (prior_alone(model, reference, args.prior_steps) if model else {})
        for name, views in drawn.items():
            results.setdefault(name, {})[clip.name] = score_views(views, truth)

    machine = environment("cuda" if gpus else "cpu")
    report = {
        **{key: machine[key] for key in ("hardware", "torch", "commit")},
        "config": args.config.name,
        "overrides": args.overrides,
        "workers": args.workers,
        "size": SIZE,
        "results": results,
    }
    if args.out:
        write_report(report, args.out)
    print(table(results))


if __name__ == "__main__":
    main()
