"""What every guidance that distils a diffusion prior shares: schedules, precision, and one step of distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import C
from threestudio.utils.typing import Float, Int, Tensor

from ..errors import UserError
from ..values import Count, Schedule, Text
from . import score_distillation as sd
from .score_distillation import ScoreDistillation

HALF_PRECISION = {"fp16": torch.float16, "bf16": torch.bfloat16}

#: ``(noisy [B, ...], timesteps [B]) -> (eps_hat, x0_hat)``, both [B, ...], after classifier-free guidance
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class DistillationGuidance(BaseObject):
    """Base of the guidances. Values marked "schedule" are numbers or threestudio schedules (``[0, 0.98, 0.25, 5000]``).

    A guidance loads its networks in ``configure``, hands them to ``take_model`` and calls ``set_noise_schedule``; a
    step, ``distill``, encodes what was rendered and calls ``distil_latents`` with a function that asks the network.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: Text = ""
        """Built-in prior, folder in diffusers layout, hub id, or original checkpoint."""
        guidance_scale: Annotated[Any, Schedule()] = 5.0
        """Schedule. Weight of classifier-free guidance, ``uncond + s (cond - uncond)``; 1 skips the second pass."""
        min_step_percent: Annotated[Any, Schedule(0, 1)] = 0.02
        """Schedule. Timesteps are drawn between these fractions of the noise schedule, both ends included."""
        max_step_percent: Annotated[Any, Schedule(0, 1)] = 0.98
        weighting_strategy: Annotated[str, Literal[sd.WEIGHTINGS]] = "sds"
        """w(t): ``sds`` (1 - alpha_bar), ``uniform``, ``fantasia3d``, ``x0``; see ``gradient_coefficients``."""
        grad_clip: Optional[Annotated[Any, Schedule(above=0)]] = None  # noqa: UP045
        """Schedule. Entries of the score are clamped to plus or minus this; null: not at all."""
        half_precision_weights: bool = True
        """Run the network in half precision on a GPU. The CPU always runs single precision."""
        half_dtype: Annotated[str, Literal["fp16", "bf16"]] = "fp16"
        """``fp16`` (as published), or ``bf16``: coarser, and never overflows."""
        vae_half_precision: bool = False
        """Encode renders in half precision too; published runs keep the encoder in single precision."""
        vae_checkpointing: bool = False
        """Recompute the encoder's activations in the backward pass: about a third more time for much less memory."""
        sample_posterior: bool = True
        """Latents of renders are samples of the encoder's posterior (as published); false takes its mean."""
        max_batch: Optional[Count] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional on every Python version
        """Most samples that the UNet sees at once, conditional and unconditional ones counted; null: all."""
        compile_unet: bool = False
        """``torch.compile`` the UNet. Pays on a GPU after some minutes."""

    cfg: Config

    def half_dtype(self) -> torch.dtype | None:
        """Precision that the networks are cast to: that of the config on a GPU, None (leave them) elsewhere."""
        if not self.cfg.half_precision_weights or self.device.type != "cuda":
            return None
        return HALF_PRECISION[self.cfg.half_dtype]

    def take_model(self, model: nn.Module) -> nn.Module:
        """Freeze a model with ``unet`` and ``vae``, and bring it to the device and precision that the config says."""
        half_dtype = self.half_dtype()
        if half_dtype is not None:
            # nn.Module's own cast: that of diffusers warns of modules to keep in float32, of which there are none.
            for network in (model.unet, *([model.vae] if self.cfg.vae_half_precision else [])):
                nn.Module.to(network, half_dtype)
        model = model.to(self.device).requires_grad_(False).eval()
        if self.cfg.vae_checkpointing and isinstance(model.vae, AutoencoderKL):
            model.vae.enable_gradient_checkpointing()
        if self.cfg.compile_unet:
            if not hasattr(model.unet, "compile"):
                raise UserError(f"compile_unet needs torch 2.2 or newer, found {torch.__version__}")
            if isinstance(model.unet, UNet2DConditionModel):
                model.unet.to(memory_format=torch.channels_last)
            model.unet.compile()
        return model

    def in_parts(
        self, count: int, ask: Callable[[slice], tuple[Tensor, Tensor]], group: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Ask the network about ``count`` samples, at most ``max_batch`` rows at a time, in its own precision.

        Args:
            ask: samples -> (noise, clean latents) after classifier-free guidance.
            group: so many consecutive samples always go through together.
        """
        step = count
        if self.cfg.max_batch is not None:
            passes = 1 if self.guidance_scale == 1 else 2
            step = max(1, self.cfg.max_batch // (passes * group)) * group
        with self.single_precision():
            parts = [ask(slice(start, start + step)) for start in range(0, count, step)]
        eps, x0 = (torch.cat(part) for part in zip(*parts, strict=True))
        return eps, x0

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

    def add_noise(
        self,
        latents: Float[Tensor, "B ..."],
        timesteps: Int[Tensor, " B"] | None = None,
        noise: Float[Tensor, "B ..."] | None = None,
    ) -> tuple[Float[Tensor, "B ..."], Int[Tensor, " B"], Float[Tensor, "B ..."]]:
        """Noisy latents, their timesteps and the noise; what is not given is drawn."""
        if timesteps is None:
            timesteps = self.sample_timesteps(len(latents))
        if noise is None:
            noise = torch.randn_like(latents)
        return sd.add_noise(latents, noise, self.alphas_cumprod[timesteps]), timesteps, noise

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
            noisy, timesteps, noise = self.add_noise(latents, timesteps, noise)
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

    def look(
        self, decode: Callable[[Tensor], Tensor], noisy: Tensor, x0: Tensor, noise_levels: Float[Tensor, " N"]
    ) -> dict[str, Any]:
        """What ``eval`` holds: the noise levels of N pictures, what the network saw of them and what it made of it.

        Args:
            decode: latents -> pictures [N, h, w, 3].
            noise_levels: as fractions of the noise schedule.
        """
        with self.single_precision():
            seen, made = decode(noisy), decode(x0)
        return {"bs": len(seen), "noise_levels": noise_levels.tolist(), "imgs_noisy": seen, "imgs_1step": made}

    def __call__(self, rgb: Float[Tensor, "N H W 3"], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """threestudio's way to ask, with the arguments of ``distill``: ``loss_sds`` (the sum over a batch, divided by
        the samples that the network judges: pictures or clips), ``grad_norm``, ``min_step``, ``max_step``.

        With ``guidance_eval=True`` also ``eval``: ``bs``, ``noise_levels`` and the pictures ``imgs_noisy`` (what the
        network saw) and ``imgs_1step`` (the clean image that it predicts), ``[N, h, w, 3]`` each.
        """
        kwargs["levels"] = 1  # one loss for everything in the batch
        return self.result(self.distill(rgb, *args, **kwargs))


class PictureGuidance(DistillationGuidance):
    """Base of guidances whose ``model`` sees single square pictures (``PictureLatents``)."""

    @property
    def image_size(self) -> int:
        """Side in pixels that the prior works at; other sizes are resized to it."""
        return self.model.image_size

    def encode(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B C h w"]:
        """Scaled latents of renders in [0, 1], differentiable."""
        with self.single_precision():
            images = self.model.resize(rgb.to(self.device, torch.float32).movedim(-1, 1))
            return self.model.encode(images, sample=self.cfg.sample_posterior).float()

    def _evaluation(self, noisy: Tensor, x0: Tensor, timesteps: Tensor) -> dict[str, Any]:
        levels = timesteps.float() / self.model.num_train_timesteps
        return self.look(lambda latents: self.model.decode(latents).movedim(1, -1), noisy, x0, levels)


class PromptedGuidance(DistillationGuidance):
    """Base of guidances that are told in words what the render shows."""

    @dataclass
    class Config(DistillationGuidance.Config):
        view_dependent_prompting: bool = True
        """Name the view in the prompt, by the camera."""

    cfg: Config

    def embeddings(
        self,
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L D"]]:
        """Embeddings of the prompt and of the negative one, for each camera."""
        both = prompt_utils.get_text_embeddings(
            elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting
        )
        text, negative = both.to(self.device).chunk(2)
        return text, negative
