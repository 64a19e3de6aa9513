"""Train the built-in Zero123 prior on renders of posed meshes.

One process a GPU: ``torchrun --nproc_per_node 4 -m threestudio_4d.prior.train_zero123 --pack pack.npz --out run``.
A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..guidance.zero123_model import Zero123Model, camera_vector
from .jitter import ShapeJitter
from .pairs import PairSampler
from .scenes import PosedMeshes
from .zero123_evaluation import NovelViewPairs, baseline_views, one_step_views, sampled_views, scores
from .zero123_networks import build_zero123_tiny


@dataclass
class TrainingConfig:
    """Settings of one training; times in minutes of training, without set-up.

    Attributes:
        minutes: the length of the whole training, over all calls; the learning rate follows it.
        call_minutes: stop this call after so long, to go on in the next.
        batch_size: pairs for each process and step.
        condition_dropout: share of pairs without a picture, for classifier-free guidance.
        initial: folder of a prior whose weights to start from.
        jitter_steps: new shapes and palettes every so many steps (see ``ShapeJitter``); 0 keeps the assets as they are.
        terminal_share: share of pairs at the last timestep (pure noise), where the posterior mean is learnt.
    """

    pack: str
    out: str
    benchmark: str | None = None
    initial: str | None = None
    jitter_steps: int = 20
    minutes: float = 15.0
    call_minutes: float = 15.0
    batch_size: int = 512
    image_size: int = 64
    learning_rate: float = 8e-4
    weight_decay: float = 0.01
    warmup_steps: int = 300
    condition_dropout: float = 0.1
    terminal_share: float = 0.1
    ema_decay: float = 0.9995
    evaluate_minutes: float = 1.5
    max_steps: int = 10**9
    compile: bool = True
    seed: int = 0


def diffusion_loss(
    model: Zero123Model,
    pictures: Tensor,
    targets: Tensor,
    camera: Tensor,
    t: Tensor,
    noise: Tensor,
    dropped: Tensor,
) -> Tensor:
    """v-prediction loss (Salimans and Ho, 2022) of one batch.

    Args:
        pictures: what the prior is given, [B, 3, S, S] in [0, 1].
        targets: what it shall draw, [B, 3, S, S].
        camera: [B, 4].
        t: timesteps, [B].
        noise: [B, C, h, w].
        dropped: 1 where the pair loses its picture, [B].
    """
    x0 = model.encode(targets, sample=False)
    alpha = model.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - model.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
    noisy = alpha * x0 + sigma * noise
    condition = model.encode_condition(pictures)
    kept = (1 - dropped).view(-1, 1, 1)
    context = model.context(condition, camera) * kept
    output = model.denoise(noisy, t, context, condition.latents * kept[..., None], camera * kept[..., 0])
    return F.mse_loss(output, alpha * noise - sigma * x0)


def draw_timesteps(batch_size: int, last: int, terminal_share: float, device: torch.device) -> Tensor:
    """Stratified uniform timesteps in [0, last], a share of them set to the last one; [B]."""
    u = (torch.arange(batch_size, device=device) + torch.rand(batch_size, device=device)) / batch_size
    terminal = torch.rand(batch_size, device=device) < terminal_share
    return torch.where(terminal, torch.full_like(u, last), (u * (last + 1)).floor().clamp(max=last)).long()


class Trainer:
    """State of one process: the model, its moving average, the optimizer, and the clock of the schedule."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        if self.world_size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        torch.manual_seed(config.seed)
        model = Zero123Model.load(config.initial) if config.initial else build_zero123_tiny(config.image_size)
        self.model = model.to(self.device).train()
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.average_parameters = list(self.average.parameters())
        # One flat buffer behind all gradients: one all-reduce and one norm a step.
        self.gradients = torch.zeros(sum(p.numel() for p in self.parameters), device=self.device)
        offset = 0
        for parameter in self.parameters:
            parameter.grad = self.gradients[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            fused=self.device.type == "cuda",
        )
        self.step, self.minutes_before, self.history = 0, 0.0, []
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "state.pt").exists():
            self._load()
        self.loss_function = torch.compile(diffusion_loss) if config.compile else diffusion_loss
        torch.manual_seed(config.seed + 1000 * self.rank + self.step)

    def _load(self) -> None:
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.minutes_before, self.history = state["step"], state["minutes"], state["history"]

    def save(self, minutes: float) -> None:
        """Write the moving average as a prior and everything needed to go on."""
        if self.rank:
            return
        self.average.save(self.out / "prior")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": minutes,
            "history": self.history,
        }
        torch.save(state, self.out / "state.pt.tmp")
        os.replace(self.out / "state.pt.tmp", self.out / "state.pt")
        record = {
            "config": asdict(self.config),
            "parameters": sum(p.numel() for p in self.parameters),
            "processes": self.world_size,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "history": self.history,
        }
        (self.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")

    def learning_rate(self, minutes: float) -> float:
        """Linear warm-up in steps, then a cosine to 1 % over the minutes of the whole training."""
        warmup = min(1.0, (self.step + 1) / self.config.warmup_steps)
        progress = min(minutes / self.config.minutes, 1.0)
        return self.config.learning_rate * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self, sampler: PairSampler, rate: float) -> Tensor:
        batch = sampler(self.config.batch_size)
        camera = camera_vector(
            batch.elevation,
            batch.azimuth,
            batch.distance,
            batch.cond_elevation,
            batch.cond_azimuth,
            batch.cond_distance,
        )
        size = len(camera)
        t = draw_timesteps(size, self.model.num_train_timesteps - 1, self.config.terminal_share, self.device)
        noise = torch.randn((size, *self.model.latent_shape), device=self.device)
        dropped = (torch.rand(size, device=self.device) < self.config.condition_dropout).float()
        self.gradients.zero_()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.loss_function(self.model, batch.cond, batch.target, camera, t, noise, dropped)
        loss.backward()
        if self.world_size > 1:
            dist.all_reduce(self.gradients, op=dist.ReduceOp.AVG if self.device.type == "cuda" else dist.ReduceOp.SUM)
            if self.device.type != "cuda":
                self.gradients /= self.world_size
        self.gradients *= (1.0 / (self.gradients.norm() + 1e-6)).clamp(max=1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average_parameters, [p.detach() for p in self.model.parameters()], 1 - decay)
        self.step += 1
        return loss.detach()

    def evaluate(self, benchmark: NovelViewPairs, minutes: float, loss: float, samples: bool) -> None:
        """Score the moving average; every process takes part only through the barrier."""
        if self.rank == 0:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                views = {"one_step": one_step_views(self.average, benchmark)}
                if samples:
                    views["sampled"] = sampled_views(self.average, benchmark)
            entry = {
                "step": self.step,
                "minutes": round(minutes, 3),
                "pairs": self.step * self.config.batch_size * self.world_size,
                "loss": loss,
            }
            self.history.append(entry | {name: scores(value.float(), benchmark) for name, value in views.items()})
            print(json.dumps(self.history[-1]), flush=True)
        if self.world_size > 1:
            dist.barrier()

    def _agree(self, value: float) -> float:
        """The first process's value, on all processes."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, device=self.device, dtype=torch.float64)
        dist.broadcast(tensor, 0)
        return tensor.item()

    def run(self) -> None:
        config = self.config
        meshes = PosedMeshes.load(config.pack, self.device)
        sampler = PairSampler(meshes, seed=config.seed + 7919 * self.rank + self.step, resolution=config.image_size)
        jitter = ShapeJitter(meshes, seed=config.seed + 104729 * self.rank + self.step) if config.jitter_steps else None
        benchmark = None
        if config.benchmark:
            benchmark = NovelViewPairs.load(config.benchmark, config.image_size).to(self.device)
            if self.rank == 0:
                for name, views in baseline_views(benchmark).items():
                    print(name, scores(views, benchmark), flush=True)
        set_up = time.time()
        loss = self.train_step(sampler, 0.0 if self.step else 1e-8)
        loss.item()
        if self.rank == 0:
            print(f"first step, with compilation: {time.time() - set_up:.1f} s", flush=True)
        start, minutes, next_evaluation = time.time(), self.minutes_before, self.minutes_before
        total, window_step, window_start = torch.zeros((), device=self.device), self.step, time.time()
        while self.step < config.max_steps:
            if jitter is not None and self.step % config.jitter_steps == 0:
                jitter.refresh()
            total += self.train_step(sampler, self.learning_rate(minutes))
            if self.step % 25:
                continue
            minutes = self._agree(self.minutes_before + (time.time() - start) / 60)
            stop = minutes >= config.minutes or minutes - self.minutes_before >= config.call_minutes
            if minutes >= next_evaluation or stop:
                mean_loss = total.item() / (self.step - window_step)
                pairs = (self.step - window_step) * config.batch_size * self.world_size
                if self.rank == 0:
                    rate = pairs / (time.time() - window_start)
                    print(f"step {self.step}, {minutes:.2f} min, {rate:.0f} pairs/s", flush=True)
                if benchmark is not None:
                    self.evaluate(benchmark, minutes, mean_loss, samples=stop)
                next_evaluation = minutes + config.evaluate_minutes
                self.save(minutes)
                total.zero_()
                window_step, window_start = self.step, time.time()
            if stop:
                break
        if self.world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in TrainingConfig.__dataclass_fields__.items():
        flag = "--" + name.replace("_", "-")
        if field.type == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        elif name in ("pack", "out"):
            parser.add_argument(flag, required=True)
        else:
            kind = {"int": int, "float": float}.get(field.type, str)
            parser.add_argument(flag, type=kind, default=field.default)
    Trainer(TrainingConfig(**vars(parser.parse_args()))).run()


if __name__ == "__main__":
    main()
