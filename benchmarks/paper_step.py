"""One training step of Consistent4D at the paper's scale, with full-size networks of random weights.

    python benchmarks/paper_step.py --output benchmarks/results/paper_step.json
    python benchmarks/paper_step.py --device cpu --quick

What runs is ``configs/consistent4d_zero123xl.yaml`` through its own system and Lightning, on the demo clip: stage 1
with four views of 64 x 64, stage 2 with one view of 256 x 256, two levels, guidance on the renders of both levels with
and without condition, reference and novel-view steps in turn. Three things differ: the networks are random (nothing is
downloaded), the occupancy is a ball of radius 0.45 (the grid is refreshed as always, and the result put aside), and
nothing is logged.

Every step is timed by events on the GPU's own clock, and divided into

* ``geometry and renderer``: rendering forward, and the backward pass except that of the encoder;
* ``vae``: the image encoder, forward and backward;
* ``unet``: the UNet with classifier-free guidance;
* ``rife``: interpolation, in arcs and runs of three or more views (so never in stage 2);
* ``optimizer``: Adam;
* ``rest``: cameras and rays, refresh of the occupancy, losses, gradient scaling, what Lightning does.

Medians are taken for each kind of step; the mean step weighs them as they occur in training. ``wall_it_per_s`` is the
measured pace of all timed steps on the host's clock.
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from common import ROOT, environment, write_report
from renderer_step import fix_occupancy
from safetensors.torch import save_file
from zero123_step import random_zero123

import threestudio
import threestudio_4d  # noqa: F401  (registers the parts)
from threestudio.utils.config import load_config
from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.guidance.zero123_guidance import Zero123GuidanceT
from threestudio_4d.interpolation.ifnet import IFNet

CONFIG = ROOT / "configs" / "consistent4d_zero123xl.yaml"
STAGES = {"stage 1": (4, 64), "stage 2": (1, 256)}  # views of a step, side of a render
PARTS = ("geometry and renderer", "vae", "unet", "rife", "optimizer", "rest")
QUICK = (
    "system.geometry.grid_size=[[8,8,8,4],[12,12,12,4]]",
    "system.geometry.n_grid_dims=4",
    "system.renderer.num_samples_per_ray=24",
    "system.interpolator.min_size=0",
    "data.mode_section=[0.25,0.75,1,1]",
)


@threestudio.register("random-zero123-guidance")
class RandomZero123(Zero123GuidanceT):
    """The guidance with networks of random weights."""

    @dataclass
    class Config(Zero123GuidanceT.Config):
        quick: bool = False

    cfg: Config

    def configure(self, model: Zero123Model | None = None) -> None:
        super().configure(random_zero123(self.device, self.cfg.quick))


class Clock:
    """Marks on the time line of a device: CUDA events, or the host's clock."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        """The present moment; on a GPU, the moment when the work queued so far is done."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Milliseconds; on a GPU both marks must have passed."""
        return begin.elapsed_time(end) if self.on_gpu else 1e3 * (end - begin)


class PartsOfSteps(pl.Callback):
    """Times every step of a fit and the parts of it."""

    def __init__(self, warmup: int, device: torch.device) -> None:
        self.warmup, self.device, self.clock = warmup, device, Clock(device)
        self.steps: list[tuple[str, dict[str, list[tuple[Any, Any]]]]] = []
        self.spans: dict[str, list[tuple[Any, Any]]] = {}
        self.begun: dict[str, Any] = {}

    def begin(self, part: str) -> None:
        self.begun[part] = self.clock.mark()

    def end(self, part: str) -> None:
        self.spans[part].append((self.begun.pop(part), self.clock.mark()))

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed as a part of the step."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            result = function(*args, **kwargs)
            self.end(part)
            return result

        return call

    def timed_encoder(self, encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """The encoder, timed forward, and backward between the gradients of its output and of its input."""
        forward = self.timed("vae", encode)

        def call(rgb: torch.Tensor) -> torch.Tensor:
            latents = forward(rgb)
            latents.register_hook(lambda gradient: self.begin("vae backward"))
            rgb.register_hook(lambda gradient: self.end("vae backward"))
            return latents

        return call

    def on_train_start(self, trainer: pl.Trainer, system: Any) -> None:
        fix_occupancy(system.renderer.occupancy)
        system.renderer.occupancy.set_binary = lambda binary: None  # a refresh costs its time and changes nothing
        system.renderer.forward = self.timed("render", system.renderer.forward)
        system.guidance.encode = self.timed_encoder(system.guidance.encode)
        system.guidance.predict = self.timed("unet", system.guidance.predict)
        system.interpolator = self.timed("rife", system.interpolator)

    def on_train_batch_start(self, trainer: pl.Trainer, system: Any, batch: Any, batch_idx: int) -> None:
        self.spans = defaultdict(list)
        if batch_idx == self.warmup:
            if self.clock.on_gpu:
                torch.cuda.synchronize(self.device)
                torch.cuda.reset_peak_memory_stats(self.device)
            self.started = time.perf_counter()
        self.begin("step")

    def on_before_backward(self, trainer: pl.Trainer, system: Any, loss: torch.Tensor) -> None:
        self.begin("backward")

    def on_after_backward(self, trainer: pl.Trainer, system: Any) -> None:
        self.end("backward")

    def on_before_optimizer_step(self, trainer: pl.Trainer, system: Any, optimizer: Any) -> None:
        self.begin("optimizer")

    def on_train_batch_end(self, trainer: pl.Trainer, system: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.end("optimizer")
        self.end("step")
        if batch_idx >= self.warmup:
            novel = "novel view with rife" if self.spans["rife"] else "novel view"
            self.steps.append((novel if self.spans["unet"] else "reference", dict(self.spans)))

    def on_train_end(self, trainer: pl.Trainer, system: Any) -> None:
        if self.clock.on_gpu:
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self.started

    def medians(self) -> dict[str, dict[str, float]]:
        """For each kind of step: how many there were, the median step in ms, and the median of each part."""
        rows = defaultdict(list)
        for kind, spans in self.steps:
            ms = {part: sum(self.clock.between(*span) for span in spans.get(part, [])) for part in (*spans, "vae")}
            row = {part: ms.get(part, 0.0) for part in ("vae", "unet", "rife", "optimizer")}
            row["geometry and renderer"] = ms["render"] + ms["backward"] - ms.get("vae backward", 0.0)
            row["vae"] += ms.get("vae backward", 0.0)
            row["rest"] = ms["step"] - sum(row.values())
            row["ms"] = ms["step"]
            rows[kind].append(row)
        return {
            kind: {"steps": len(found)} | {key: statistics.median(row[key] for row in found) for key in ("ms", *PARTS)}
            for kind, found in rows.items()
        }


def frequencies(cfg: Any, views: int, found: dict[str, Any]) -> dict[str, float]:
    """How often each kind of step occurs in training: reference steps alternate, arcs and runs come as configured."""
    reference = 1 / cfg.system.freq.n_ref
    section = cfg.data.mode_section
    with_rife = (1 - reference) * (section[2] - section[0]) if views > 2 else 0.0
    share = {"reference": reference, "novel view": 1 - reference - with_rife, "novel view with rife": with_rife}
    return {kind: value for kind, value in share.items() if value > 0 and kind in found}


def run_stage(views: int, size: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train some steps of one stage and return its numbers."""
    device = torch.device(arguments.device)
    weights = folder / "flownet.safetensors"
    save_file(IFNet().state_dict(), weights)
    overrides = [
        f"exp_root_dir={folder}",
        f"data.image_seq_path={ROOT / 'load' / 'demo' / 'walker'}",
        *(f"data.{key}={size}" for key in ("height", "width", "random_camera.height", "random_camera.width")),
        *(f"data.{key}={views}" for key in ("batch_size", "random_camera.batch_size")),
        *(f"data.{key}=[]" for key in ("resolution_milestones", "random_camera.resolution_milestones")),
        "system.guidance_type=random-zero123-guidance",
        f"system.guidance.quick={arguments.quick}",
        f"system.interpolator.weights={weights}",
        *(QUICK if arguments.quick else ()),
        *arguments.overrides,
    ]
    cfg = load_config(str(CONFIG), cli_args=overrides, n_gpus=1)
    pl.seed_everything(cfg.seed, verbose=False)
    data = threestudio.find(cfg.data_type)(cfg.data)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=False)
    system.set_save_dir(str(folder / "save"))
    parts = PartsOfSteps(arguments.warmup, device)
    trainer = pl.Trainer(
        max_steps=arguments.warmup + arguments.steps,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=cfg.trainer.precision if device.type == "cuda" else "32-true",
        callbacks=[parts],
        limit_val_batches=0,
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(system, data)

    kinds = parts.medians()
    weight = frequencies(cfg, views, kinds)
    total = sum(weight.values())
    mean = {key: sum(weight[k] * kinds[k][key] for k in weight) / total for key in ("ms", *PARTS)}
    row = {"views": views, "size": size, "levels": system.n_levels, "frequencies": weight, "kinds": kinds, "mean": mean}
    whole = sum(mean[part] for part in PARTS)  # a sum of medians, so not exactly mean["ms"]
    row["shares"] = {part: mean[part] / whole for part in PARTS}
    row["it_per_s"] = 1e3 / mean["ms"]
    row["wall_it_per_s"] = len(parts.steps) / parts.seconds
    if device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return row


def table(stages: dict[str, dict[str, Any]]) -> str:
    """The report as a table in Markdown: a row for each kind of step, with its parts in ms."""
    lines = ["| | step, ms | " + " | ".join(PARTS) + " |", "| --- " * (len(PARTS) + 2) + "|"]
    for name, stage in stages.items():
        for kind, row in [*stage["kinds"].items(), ("mean step", stage["mean"])]:
            cells = [f"{row[key]:.1f}" for key in ("ms", *PARTS)]
            lines.append(f"| {name}, {kind} | " + " | ".join(cells) + " |")
        shares = " | ".join(f"{100 * stage['shares'][part]:.0f} %" for part in PARTS)
        lines.append(f"| {name}, share | | {shares} |")
    return "\n".join(lines)


def main() -> None:
    """Run both stages, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="toy networks, small renders, few steps: does it run?")
    parser.add_argument("--steps", type=int, default=80, help="timed steps of each stage")
    parser.add_argument("--warmup", type=int, default=20, help="steps before them")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON here too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="entries of the config to set")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.warmup = 8, 2
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
    device = torch.device(arguments.device)
    set_device(device if device.type == "cpu" else None)
    networks = "toy" if arguments.quick else "published size, random weights"
    report: dict[str, Any] = {**environment(device), "networks": networks, "stages": {}}
    for name, (views, size) in STAGES.items():
        size = size // 8 if arguments.quick else size
        with tempfile.TemporaryDirectory(prefix="paper-step-") as folder:
            row = report["stages"][name] = run_stage(views, size, arguments, Path(folder))
        memory = f", peak {row['peak_gib']:.1f} GiB" if "peak_gib" in row else ""
        print(f"{name}: {views} x {size}², {row['it_per_s']:.2f} it/s ", end="")
        print(f"(host's clock {row['wall_it_per_s']:.2f}){memory}", flush=True)
        gc.collect()  # the trainer and the system refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(table(report["stages"]))
    if arguments.output is not None:
        write_report(report, arguments.output)


if __name__ == "__main__":
    main()
