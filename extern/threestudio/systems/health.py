"""Watching losses, gradients and parameters for NaN and infinity without waiting for the GPU.

On the CPU a bad value raises at once. On a GPU the verdict of a step is copied to the host in the background and read
when the next step asks, or when a checkpoint is about to be written, so no step waits for it and no bad checkpoint is
kept. ``describe_non_finite`` waits: it is for moments when tensors are read back anyway, such as a save.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from threestudio.utils.errors import NonFiniteError

__all__ = ["FiniteWatch", "describe_non_finite", "module_tensors", "optimizer_tensors"]

NamedTensors = list[tuple[str, torch.Tensor]]


def largest_values(named: NamedTensors) -> list[tuple[list[str], torch.Tensor]]:
    """For each device the names of its non-empty tensors of real numbers, and the largest absolute value of each:
    NaN if one is NaN.
    """
    by_device: dict[torch.device, NamedTensors] = {}
    for name, tensor in named:
        tensor = tensor.detach()
        if tensor.is_sparse:
            tensor = tensor.coalesce().values()
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append((name, tensor))
    return [
        (
            [name for name, _ in items],
            torch.stack([n.float() for n in torch._foreach_norm([t for _, t in items], float("inf"))]),
        )
        for items in by_device.values()
    ]


def module_tensors(module: torch.nn.Module) -> NamedTensors:
    """Parameters, and the buffers that a checkpoint holds."""
    saved = {name for name in module.state_dict() if not name.endswith("_extra_state")}
    return [
        *((f"parameter {name}", tensor) for name, tensor in module.named_parameters()),
        *((f"buffer {name}", tensor) for name, tensor in module.named_buffers() if name in saved),
    ]


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: torch.nn.Module) -> NamedTensors:
    """What the optimizer remembers of each parameter of the module, such as moving averages of its gradient."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        (f"optimizer state {key} of {names.get(id(parameter), 'a parameter')}", value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.ndim > 0
    ]


def describe_non_finite(named: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Which tensors hold NaN or infinity, and how many values; ``None`` if all is well. Buffers may be infinite."""
    named = list(named)
    largest: dict[str, float] = {}
    for names, values in largest_values(named):
        largest.update(zip(names, values.tolist(), strict=True))
    bad = []
    for name, tensor in named:
        value = largest.get(name, 0.0)
        if value != value or (value == float("inf") and not name.startswith("buffer ")):
            tensor = tensor.detach()
            count = tensor.numel() - int(torch.isfinite(tensor).sum())
            kind = "NaN" if value != value else "infinite"
            bad.append(f"{name} ({count} of {tensor.numel()} values, {kind})")
    if not bad:
        return None
    return ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")


class FiniteWatch:
    """Collects named values of one training step and raises ``NonFiniteError`` when one is not finite.

    Args:
        advice: makes the last sentence of the message: what to go on from.
    """

    def __init__(self, advice: Callable[[], str] = str) -> None:
        self._advice = advice
        self._terms: dict[str, torch.Tensor] = {}
        self._pending: list[tuple[int, str, list[str], torch.Tensor, Any | None]] = []

    def note(self, name: str, value: torch.Tensor) -> None:
        """Remember a logged term of this step; it is looked at only when the whole loss is bad, or with the verdict."""
        self._terms[name] = value.detach()

    def check_loss(self, loss: torch.Tensor, step: int) -> None:
        terms = {k: v for k, v in self._terms.items() if v.numel() == 1}
        self._terms = {}
        names = ["loss", *terms]
        values = torch.stack([v.detach().float().reshape(()).to(loss.device) for v in (loss, *terms.values())])
        self._submit(step, "loss", names, values)

    def check_gradients(self, named_gradients: NamedTensors, step: int) -> None:
        for names, values in largest_values(named_gradients):
            self._submit(step, "gradient", names, values)

    def check_parameters(self, named_parameters: NamedTensors, step: int) -> None:
        """Look at what the optimizer made of the parameters, before ``step`` uses them."""
        for names, values in largest_values(named_parameters):
            self._submit(step, "parameter", names, values)

    def _submit(self, step: int, kind: str, names: list[str], values: torch.Tensor) -> None:
        self.flush(before=step)
        if values.device.type != "cuda":
            self._judge(step, kind, names, values)
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(values.device))
        self._pending.append((step, kind, names, host, event))

    def flush(self, before: int | None = None) -> None:
        """Judge what is pending: all of it, or what steps earlier than ``before`` left."""
        while self._pending and (before is None or self._pending[0][0] < before):
            step, kind, names, values, event = self._pending.pop(0)
            event.synchronize()  # recorded a step ago, so it has passed
            self._judge(step, kind, names, values)

    def _judge(self, step: int, kind: str, names: list[str], values: torch.Tensor) -> None:
        finite = torch.isfinite(values)
        if kind == "loss" and bool(finite[0]):
            return
        if bool(finite.all()):
            return
        values_list = values.tolist()
        bad = [f"{n} = {v}" for n, v, ok in zip(names, values_list, finite.tolist(), strict=True) if not ok]
        good = [n for n, ok in zip(names, finite.tolist(), strict=True) if ok]
        shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
        self._pending = []
        if kind == "loss":
            terms = [b for b in bad if not b.startswith("loss = ")]
            what = f"The loss of step {step} is {values_list[0]}. "
            what += f"Terms that are not finite: {', '.join(terms)}. " if terms else "No logged term is to blame. "
            what += f"Finite terms: {', '.join(good)}. " if good else ""
        elif kind == "parameter":
            origin = f"The optimizer step {step - 1} made" if step else "Before the first step there are"
            what = f"{origin} parameters that are not finite (largest values: {shown}). "
        else:
            what = f"Step {step} has gradients that are not finite: {shown}. "
        raise NonFiniteError(what + "Training stops here. " + self._advice())
