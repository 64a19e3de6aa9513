"""What every guidance that distils a diffusion prior shares: schedules, precision, and one step of distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from threestudio.utils.base import BaseObject
from threestudio.utils.misc import C
from threestudio.utils.typing import Float, Int, Tensor

from ..errors import UserError
from . import score_distillation as sd
from .score_distillation import ScoreDistillation

HALF_PRECISION = {"fp16": torch.float16, "bf16": torch.bfloat16}

#: ``(noisy [B, ...], timesteps [B]) -> (eps_hat, x0_hat)``, both [B, ...], after classifier-free guidance
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DistillationGuidance(BaseObject):
    """Base of the guidances. Values marked "schedule" are numbers or threestudio schedules (``[0, 0.98, 0.25, 5000]``).

    A guidance loads its networks in ``configure``, then calls ``set_noise_schedule``; a step encodes what was rendered
    and calls ``distil_latents`` with a function that asks the network.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = ""
        """Built-in prior, folder in diffusers layout, hub id, or original checkpoint."""
        guidance_scale: Any = 5.0
        """Schedule. Weight of classifier-free guidance, ``uncond + s (cond - uncond)``; 1 skips the second pass."""
        min_step_percent: Any = 0.02
        """Schedule. Timesteps are drawn between these fractions of the noise schedule, both ends included."""
        max_step_percent: Any = 0.98
        weighting_strategy: str = "sds"
        """w(t): ``sds`` (1 - alpha_bar), ``uniform``, ``fantasia3d``, ``x0``; see ``gradient_coefficients``."""
        grad_clip: Any = None
        """Schedule. Entries of the score are clamped to plus or minus this; null: not at all."""
        half_precision_weights: bool = True
        """Run the network in half precision on a GPU. The CPU always runs single precision."""
        half_dtype: str = "fp16"
        """``fp16``, or ``bf16``: coarser, and never overflows."""

    cfg: Config

    def half_dtype(self) -> torch.dtype | None:
        """Precision that the networks are cast to: that of the config on a GPU, None (leave them) elsewhere."""
        if self.cfg.half_dtype not in HALF_PRECISION:
            raise UserError(f"half_dtype must be one of {', '.join(HALF_PRECISION)}, got {self.cfg.half_dtype!r}")
        if not self.cfg.half_precision_weights or self.device.type != "cuda":
            return None
        return HALF_PRECISION[self.cfg.half_dtype]

    def set_noise_schedule(self, alphas_cumprod: Float[Tensor, " T"], prediction_type: sd.PredictionType) -> None:
        """Take the prior's noise schedule, and read the config's schedules for step 0."""
        self.alphas_cumprod = alphas_cumprod.to(self.device)
        self._form = sd.gradient_form(prediction_type)
        self._coefficients = sd.gradient_coefficients(alphas_cumprod, self.cfg.weighting_strategy, self._form).to(
            self.device
        )
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Read the schedules."""
        cfg = self.cfg
        self.guidance_scale = float(C(cfg.guidance_scale, epoch, global_step))
        self.grad_clip = None if cfg.grad_clip is None else float(C(cfg.grad_clip, epoch, global_step))
        self.min_step, self.max_step = sd.timestep_window(
            C(cfg.min_step_percent, epoch, global_step),
            C(cfg.max_step_percent, epoch, global_step),
            len(self.alphas_cumprod),
        )

    def single_precision(self) -> torch.autocast:
        """No autocast: every network runs in the precision of its own weights, whatever the trainer's setting is."""
        return torch.autocast(self.device.type, enabled=False)

    def sample_timesteps(self, count: int) -> Int[Tensor, " B"]:
        """Timesteps drawn uniformly from the present window."""
        return sd.sample_timesteps(count, (self.min_step, self.max_step), self.device)

    def distil_latents(
        self,
        latents: Float[Tensor, "B ..."],
        predict: Predict,
        timesteps: Int[Tensor, " B"] | None = None,
        noise: Float[Tensor, "B ..."] | None = None,
        levels: int = 1,
        evaluate: Callable[[Tensor, Tensor, Tensor], dict[str, Any]] | None = None,
    ) -> ScoreDistillation:
        """Noise the latents, ask the network, and pull the latents towards what it sees: SDS of every sample.

        Args:
            latents: clean latents of what was rendered, differentiable.
            predict: the network, called without gradient.
            timesteps, noise: fixed values instead of random ones.
            levels: L of a cascade whose images lie level by level in the batch; it only scales ``grad_norm``.
            evaluate: ``(noisy, x0_hat, timesteps) -> pictures``, kept in ``evaluation``.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        with torch.no_grad():
            if timesteps is None:
                timesteps = self.sample_timesteps(len(latents))
            if noise is None:
                noise = torch.randn_like(latents)
            noisy = sd.add_noise(latents, noise, self.alphas_cumprod[timesteps])
            eps, x0 = predict(noisy, timesteps)
            gradient = sd.score_gradient(
                self._coefficients[timesteps], self._form, latents=latents, noise=noise, eps=eps, x0=x0
            )
            evaluation = None if evaluate is None else evaluate(noisy, x0, timesteps)
        return self.distil_gradient(latents, gradient, timesteps, levels, evaluation)

    def distil_gradient(
        self,
        latents: Float[Tensor, "B ..."],
        gradient: Float[Tensor, "B ..."],
        timesteps: Tensor,
        levels: int = 1,
        evaluation: dict[str, Any] | None = None,
    ) -> ScoreDistillation:
        """The end of every distillation: check a score, clip it, and turn it into a loss on the latents.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        sd.check_finite(gradient, timesteps, type(self).__name__)
        gradient = sd.clip_gradient(gradient, self.grad_clip)
        return ScoreDistillation(
            loss=sd.reparametrised_loss(latents, gradient),
            gradient=gradient,
            grad_norm=gradient.norm() / (len(latents) // levels),
            timesteps=timesteps,
            min_step=self.min_step,
            max_step=self.max_step,
            levels=levels,
            evaluation=evaluation,
        )

    @staticmethod
    def result(distillation: ScoreDistillation, name: str = "loss_sds") -> dict[str, Any]:
        """threestudio's way to answer: the loss (sum over samples / B), ``grad_norm``, the window, and ``eval``."""
        out: dict[str, Any] = {
            name: distillation.level_losses()[0],
            "grad_norm": distillation.grad_norm,
            "min_step": distillation.min_step,
            "max_step": distillation.max_step,
        }
        if distillation.evaluation is not None:
            out["eval"] = distillation.evaluation
        return out
