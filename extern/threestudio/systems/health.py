"""Watching losses and gradients for NaN and infinity without waiting for the GPU.

On the CPU a bad value raises at once. On a GPU the verdict of a step is copied to the host in the background and read
when the next step asks, or when a checkpoint is about to be written, so no step waits for it and no bad checkpoint is
kept.
"""

from typing import Any

import torch

from threestudio.utils.errors import NonFiniteError

__all__ = ["FiniteWatch"]


class FiniteWatch:
    """Collects named values of one training step and raises ``NonFiniteError`` when one is not finite."""

    def __init__(self) -> None:
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

    def check_gradients(self, named_gradients: list[tuple[str, torch.Tensor]], step: int) -> None:
        by_device: dict[torch.device, list[tuple[str, torch.Tensor]]] = {}
        for name, gradient in named_gradients:
            if gradient.numel() == 0:
                continue
            by_device.setdefault(gradient.device, []).append((name, gradient))
        for items in by_device.values():
            norms = torch._foreach_norm([g.coalesce().values() if g.is_sparse else g for _, g in items], float("inf"))
            self._submit(step, "gradient", [n for n, _ in items], torch.stack([n.float() for n in norms]))

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
        else:
            what = f"Step {step} has gradients that are not finite: {shown}. "
        raise NonFiniteError(
            what
            + "Training stops here, and nothing was written after it. Resume from the last checkpoint with a smaller "
            "learning rate or weight of that term, gradient clipping, or 32-bit precision."
        )
