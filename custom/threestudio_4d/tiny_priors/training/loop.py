"""The training loop of every built-in prior: time-boxed, resumable, on one GPU or several.

A prior's script defines a task (what to draw, its loss, how it is scored and saved) and calls ``train``. One process a
GPU through ``torchrun``; a second call with the same ``out`` goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
import torch.distributed as dist
from annotated_types import Interval
from torch import Tensor, nn

from ...arguments import Count, Seed, Share, checked
from ...atomic import atomic_file, atomic_folder, write_text

#: names for annotations that several trainings share
Minutes = Annotated[float, Interval(gt=0, le=1e9)]
BatchSize = Annotated[int, Interval(ge=1, le=2**20)]
LearningRate = Annotated[float, Interval(gt=0, le=10)]
Weight = Annotated[float, Interval(ge=0, le=1e6)]


class Numbers:
    """True for whole numbers with commas between, each from 1 to 4096."""

    def __call__(self, text: str) -> bool:
        return all(part.strip().isdecimal() and 0 < int(part) <= 4096 for part in text.split(","))

    def __str__(self) -> str:
        return "whole numbers from 1 to 4096 with commas between, as in 48,96,96"


NumberList = Annotated[str, Numbers()]


class PriorTask(Protocol):
    """What is trained. Parameters of ``model`` with ``requires_grad`` learn, the others stay as they are."""

    model: nn.Module

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """A batch on the model's device, always of the same shapes."""

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """0-dim; compiled, and on a GPU under bf16 autocast."""

    def refresh(self, step: int) -> None:
        """Called before every step: new shapes or colours now and then, or nothing."""

    def evaluate(self, average: nn.Module, final: bool) -> dict[str, Any]:
        """Scores of the moving average, by the first process only; thorough ones if ``final``."""

    def save(self, average: nn.Module, folder: Path) -> None:
        """Write the moving average as a prior."""


@dataclass(kw_only=True)
class TrainingConfig:
    """Settings of one training; times in minutes of training, without set-up.

    Attributes:
        out: folder of the run: ``prior/``, ``state.pt`` to go on from, ``training.json`` with the scores over time.
        minutes: the length of the whole training, over all calls; the learning rate follows it.
        call_minutes: stop this call after so long, to go on in the next.
        batch_size: samples for each process and step.
        evaluate_minutes: score and save so often, and at the end of each call.
        max_steps: stop there in any case.
    """

    out: str
    minutes: Minutes = 15.0
    call_minutes: Minutes = 1e9
    batch_size: BatchSize = 256
    learning_rate: LearningRate = 8e-4
    weight_decay: Share = 0.01
    warmup_steps: Count = 300
    ema_decay: Share = 0.9995
    evaluate_minutes: Annotated[float, Interval(ge=0, le=1e9)] = 1.5
    max_steps: Count = 10**9
    compile: bool = True
    seed: Seed = 0


ConfigT = TypeVar("ConfigT", bound=TrainingConfig)


def parse_config(
    config_class: type[ConfigT], description: str | None, argv: list[str] | None = None, **defaults: Any
) -> ConfigT:
    """A config from the command line: every field is a flag, ``--batch-size 256``, ``--no-compile``.

    Args:
        config_class: a dataclass; fields without a default are required. Values are checked against annotations.
        defaults: other defaults than those of the class.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    types = get_type_hints(config_class, include_extras=True)
    for field in fields(config_class):
        flag = "--" + field.name.replace("_", "-")
        default = defaults.get(field.name, field.default)
        if types[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        else:
            optional = [hint for hint in get_args(types[field.name]) if hint is not NoneType]
            hint = optional[0] if get_origin(types[field.name]) in (Union, UnionType) else types[field.name]
            parser.add_argument(flag, type=checked(hint), default=default, required=default is MISSING)
    return config_class(**vars(parser.parse_args(argv)))


def stage_config(config: TrainingConfig, stage: str, **changes: Any) -> TrainingConfig:
    """The loop's settings for one stage of a training in several: its folder below ``out``, and what differs."""
    settings = {field.name: getattr(config, field.name) for field in fields(TrainingConfig)}
    return TrainingConfig(**(settings | {"out": str(Path(config.out) / stage)} | changes))


def minutes_trained(config: TrainingConfig) -> float:
    """Minutes that a stage has been trained for; infinite if it is complete."""
    path = Path(config.out) / "training.json"
    history = json.loads(path.read_text())["history"] if path.exists() else []
    if not history:
        return 0.0
    done = history[-1]["minutes"] >= config.minutes or history[-1]["step"] >= config.max_steps
    return math.inf if done else history[-1]["minutes"]


def train_stages(stages: Sequence[tuple[TrainingConfig, Callable[[torch.device, int], PriorTask]]]) -> None:
    """Train one stage after the other; ``call_minutes`` of the first bounds all of them together.

    Stages that are complete are passed over, so that a second call goes on where the first one stopped.
    """
    left = stages[0][0].call_minutes
    for config, build in stages:
        before = minutes_trained(config)
        if math.isinf(before):
            continue
        config.call_minutes = left
        train(build, config)
        left -= min(minutes_trained(config), config.minutes) - before
        if left <= 0 or not math.isinf(minutes_trained(config)):
            return


def draw_timesteps(batch_size: int, last: int, terminal_share: float, device: torch.device) -> Tensor:
    """Stratified uniform timesteps in [0, last], a share of them set to the last one; [B]."""
    u = (torch.arange(batch_size, device=device) + torch.rand(batch_size, device=device)) / batch_size
    terminal = torch.rand(batch_size, device=device) < terminal_share
    return torch.where(terminal, torch.full_like(u, last), (u * (last + 1)).floor().clamp(max=last)).long()


class Trainer:
    """State of one process: the task's model, its moving average, the optimizer, and the clock of the schedule."""

    def __init__(self, build: Callable[[torch.device, int], PriorTask], config: TrainingConfig) -> None:
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
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        state_path = self.out / "state.pt"
        # To the processor: the optimizer keeps references to what it loads, which must not be a second copy on the GPU.
        state = torch.load(state_path, map_location="cpu", weights_only=True) if state_path.exists() else None
        self.step, self.minutes_before, self.history = 0, 0.0, []
        if state is not None:
            self.step, self.minutes_before, self.history = state["step"], state["minutes"], state["history"]
        torch.manual_seed(config.seed)
        self.task = build(self.device, config.seed + 7919 * self.rank + self.step)
        self.model = self.task.model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        averaged = dict(self.average.named_parameters())
        self.parameters = [p for _, p in named]
        self.average_parameters = [averaged[name] for name, _ in named]
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
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        # Batches keep their shapes. Left to find out, a second stage would be compiled for any shape, because its
        # batches differ from the first one's, and such kernels of torch 2.11 end in a misaligned address on an H100.
        self.loss_function = torch.compile(self.task.loss, dynamic=False) if config.compile else self.task.loss
        torch.manual_seed(config.seed + 1000 * self.rank + self.step)

    def save(self, minutes: float) -> None:
        """Write the moving average as a prior and everything needed to go on."""
        if self.rank:
            return
        with atomic_folder(self.out / "prior") as folder:
            self.task.save(self.average, folder)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": minutes,
            "history": self.history,
        }
        with atomic_file(self.out / "state.pt", sync=True) as partial:
            torch.save(state, partial)
        record = {
            "config": asdict(self.config),
            "parameters": sum(p.numel() for p in self.parameters),
            "processes": self.world_size,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "torch": torch.__version__,
            "history": self.history,
        }
        write_text(self.out / "training.json", json.dumps(record, indent=1) + "\n")

    def learning_rate(self, minutes: float) -> float:
        """Linear warm-up in steps, then a cosine to 1 % over the minutes of the whole training."""
        warmup = min(1.0, (self.step + 1) / self.config.warmup_steps)
        progress = min(minutes / self.config.minutes, 1.0)
        return self.config.learning_rate * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self, rate: float) -> Tensor:
        """One step of the optimizer; the loss, not read back from the device."""
        self.task.refresh(self.step)
        batch = self.task.draw(self.config.batch_size)
        self.gradients.zero_()
        with self._autocast():
            loss = self.loss_function(self.model, *batch)
        loss.backward()
        if self.world_size > 1:
            dist.all_reduce(self.gradients)
            self.gradients /= self.world_size
        self.gradients *= (1.0 / (self.gradients.norm() + 1e-6)).clamp(max=1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average_parameters, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _evaluate(self, minutes: float, loss: float, final: bool) -> None:
        entry: dict[str, Any] = {
            "step": self.step,
            "minutes": round(minutes, 3),
            "samples": self.step * self.config.batch_size * self.world_size,
            "loss": loss,
        }
        with self._autocast(), torch.no_grad():
            entry |= self.task.evaluate(self.average, final)
        self.history.append(entry)
        print(json.dumps(entry), flush=True)

    def _agree(self, value: float) -> float:
        """The first process's value, on all processes."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, device=self.device, dtype=torch.float64)
        dist.broadcast(tensor, 0)
        return tensor.item()

    def run(self) -> None:
        """Train until the time or the steps of this call are over."""
        config = self.config
        set_up = time.time()
        self.train_step(0.0 if self.step else 1e-8).item()
        if self.rank == 0:
            print(f"first step, with compilation: {time.time() - set_up:.1f} s", flush=True)
        start, minutes, next_evaluation = time.time(), self.minutes_before, self.minutes_before
        total, window_step, window_start = torch.zeros((), device=self.device), self.step, time.time()
        stop = False
        while not stop:
            if self.step < config.max_steps:
                total += self.train_step(self.learning_rate(minutes))
            last = self.step >= config.max_steps
            if self.step % 25 and not last:
                continue
            minutes = self._agree(self.minutes_before + (time.time() - start) / 60)
            final = last or minutes >= config.minutes
            stop = final or minutes - self.minutes_before >= config.call_minutes
            if minutes < next_evaluation and not stop:
                continue
            mean_loss = total.item() / max(self.step - window_step, 1)
            if self.rank == 0:
                samples = (self.step - window_step) * config.batch_size * self.world_size
                rate = samples / (time.time() - window_start)
                print(f"step {self.step}, {minutes:.2f} min, {rate:.0f} samples/s", flush=True)
                self._evaluate(minutes, mean_loss, final=stop)
                self.save(minutes)
            if self.world_size > 1:
                dist.barrier()
            next_evaluation = minutes + config.evaluate_minutes
            total.zero_()
            window_step, window_start = self.step, time.time()
        if self.world_size > 1:
            dist.destroy_process_group()


def train(build: Callable[[torch.device, int], PriorTask], config: TrainingConfig) -> None:
    """Train the task that ``build(device, seed)`` makes, until its time is over."""
    Trainer(build, config).run()
