"""``vsd-guidance``: variational score distillation (Wang et al., NeurIPS 2023, "ProlificDreamer").

The renders are pulled along the difference of two scores, that of the pretrained model and that of the renders'
own distribution, which a LoRA with a camera embedding learns beside them:

    g = w(t) (eps_pre - eps_lora),      L_vsd = 1/2 sum |z - sg(z - g)|^2 / B,      w(t) = 1 - alpha bar
    L_lora = mean |network_lora(z_t, t, text, camera) - target|^2,      t over the whole schedule, z without gradient.

eps_pre is guided (7.5) and knows the view by its prompt; eps_lora has the plain prompt and the camera. The target is
what the network predicts, the noise or the velocity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import torch
import torch.nn.functional as F
from torch import nn

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.typing import Float, Int, Tensor

from ..batch import check_rest_of_batch
from ..diffusion.sd.camera_lora import CAMERA_DIM, CameraLora
from ..diffusion.sd.model import StableDiffusionModel
from ..errors import UserError
from ..values import Count, Number, Schedule, Text
from . import score_distillation as sd
from .score_distillation import ScoreDistillation
from .sd_guidance import StableDiffusionGuidance, load_stable_diffusion

CAMERA_CONDITIONS = ("extrinsics", "mvp")


@threestudio.register("vsd-guidance")
class VSDGuidance(StableDiffusionGuidance, nn.Module):
    """Variational score distillation with Stable Diffusion.

    A module whose parameters are the LoRA and the camera's MLP; checkpoints hold nothing else of it. Name ``guidance``
    in the optimizer's ``params``, with a learning rate of 1e-4, and give ``loss_vsd`` and ``loss_lora`` a weight each.
    """

    @dataclass
    class Config(StableDiffusionGuidance.Config):
        guidance_scale: Annotated[Any, Schedule()] = 7.5
        half_dtype: Annotated[str, Literal["fp16", "bf16"]] = "bf16"
        """``bf16`` (default here: gradients of the LoRA pass through the UNet, and would underflow in ``fp16``)."""
        pretrained_model_name_or_path_lora: Optional[Text] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional
        """Model that the LoRA acts on; null: the same one, with adapters switched on and off, which saves the memory of
        a second UNet. ProlificDreamer takes SD 2.1 (768) beside SD 2.1 base."""
        guidance_scale_lora: Number = 1.0
        """Guidance of the second score by its camera; 1: none, one pass."""
        camera_condition_type: Annotated[str, Literal[CAMERA_CONDITIONS]] = "extrinsics"
        """``extrinsics``: camera-to-world matrices as they are; ``mvp``: the batch's ``mvp_mtx``."""
        lora_rank: Count = 4
        lora_alpha: Count = 4
        lora_cfg_training: bool = True
        """Train with a camera of zeros for a tenth of the samples."""
        lora_n_timestamp_samples: Count = 1
        """Noise levels of each render in a step of the LoRA."""
        lora_checkpointing: bool = False
        """Recompute the UNet's activations in the backward pass of the LoRA: more time for less memory."""

    cfg: Config

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model":  # not registered: the pretrained networks are no part of parameters and checkpoints
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def configure(
        self, model: StableDiffusionModel | None = None, lora_model: StableDiffusionModel | None = None
    ) -> None:
        """Load the priors; ``model`` and ``lora_model`` are used instead of those that the config names, if given."""
        cfg = self.cfg
        super().configure(model)
        if lora_model is None and cfg.pretrained_model_name_or_path_lora is not None:
            threestudio.info(f"Loading the prior of the LoRA {cfg.pretrained_model_name_or_path_lora}")
            lora_model = load_stable_diffusion(cfg.pretrained_model_name_or_path_lora)
        self.single_unet = lora_model is None or lora_model is self.model
        if self.single_unet:
            lora_model = self.model
        else:
            self._check_fit(lora_model)
            lora_model.vae = None  # renders are encoded by the first model
            half_dtype = self.half_dtype()
            if half_dtype is not None:
                torch.nn.Module.to(lora_model.unet, half_dtype)
            lora_model.to(self.device).requires_grad_(False).eval()
        self.lora = CameraLora(lora_model, cfg.lora_rank, cfg.lora_alpha, cfg.lora_checkpointing).to(self.device)

    def _check_fit(self, lora_model: StableDiffusionModel) -> None:
        ours, theirs = self.model, lora_model
        same_schedule = ours.num_train_timesteps == theirs.num_train_timesteps and torch.allclose(
            ours.alphas_cumprod.cpu(), theirs.alphas_cumprod.cpu(), atol=1e-4
        )
        if not same_schedule or ours.unet.config.in_channels != theirs.unet.config.in_channels:
            raise UserError(
                "the two models of vsd-guidance must share their latents and their noise schedule; "
                "set pretrained_model_name_or_path_lora to null to put the LoRA on the first one"
            )

    def predict(self, *args: Any, **kwargs: Any) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Noise and clean latents that the pretrained model sees, see ``StableDiffusionGuidance.predict``."""
        if not self.single_unet:
            return super().predict(*args, **kwargs)
        with self.lora.taken_off():
            return super().predict(*args, **kwargs)

    def sample(self, *args: Any, **kwargs: Any) -> Float[Tensor, "B S S 3"]:
        """Pictures that the pretrained model draws, see ``StableDiffusionGuidance.sample``."""
        if not self.single_unet:
            return super().sample(*args, **kwargs)
        with self.lora.taken_off():
            return super().sample(*args, **kwargs)

    def camera(self, c2w: Float[Tensor, "B 4 4"], mvp_mtx: Float[Tensor, "B 4 4"] | None) -> Float[Tensor, "B 16"]:
        """Cameras as the LoRA takes them."""
        matrix = c2w if self.cfg.camera_condition_type == "extrinsics" else mvp_mtx
        if matrix is None:
            raise ValueError("camera_condition_type=mvp needs mvp_mtx [B, 4, 4] in the batch")
        return matrix.to(self.device, torch.float32).reshape(-1, CAMERA_DIM)

    def lora_loss(
        self,
        latents: Float[Tensor, "B C h w"],
        text: Float[Tensor, "B L D"],
        camera: Float[Tensor, "B 16"],
        timesteps: Int[Tensor, " N"] | None = None,
        noise: Float[Tensor, "N C h w"] | None = None,
        kept: Float[Tensor, " N"] | None = None,
    ) -> Float[Tensor, ""]:
        """Denoising loss of the adapted network on the renders; no gradient reaches them.

        Args:
            timesteps, noise, kept: fixed values instead of random ones, N = B ``lora_n_timestamp_samples``; ``kept`` is
                0 where the camera is hidden.
        """
        repeats = self.cfg.lora_n_timestamp_samples
        latents, text, camera = (x.detach().repeat(repeats, *[1] * (x.ndim - 1)) for x in (latents, text, camera))
        model = self.lora.model
        if timesteps is None:
            timesteps = torch.randint(model.num_train_timesteps, (len(latents),), device=self.device)
        if noise is None:
            noise = torch.randn_like(latents)
        if kept is None:
            hidden = 0.1 if self.cfg.lora_cfg_training else 0.0
            kept = (torch.rand(len(latents), device=self.device) >= hidden).float()
        alpha_bar = model.alphas_cumprod[timesteps]
        target = noise
        if model.prediction_type == "v_prediction":
            target = sd.v_from_eps_x0(noise, latents, alpha_bar)
        with self.single_precision():
            output = self.lora.denoise(sd.add_noise(latents, noise, alpha_bar), timesteps, text, camera * kept[:, None])
        return F.mse_loss(output, target)

    def distill(
        self,
        rgb: Float[Tensor, "B H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
        mvp_mtx: Float[Tensor, "B 4 4"] | None = None,
        rgb_as_latents: bool = False,
        noise: Float[Tensor, "B C h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> ScoreDistillation:
        """Distil the difference of the two scores for every picture. The LoRA itself learns from ``lora_loss``.

        Args:
            rgb: renders in [0, 1], any size; with ``rgb_as_latents`` the latents themselves, [B, h, w, C].
            prompt_utils: what a prompt processor gives when called.
            elevation, azimuth, camera_distances: cameras, degrees and world units.
            c2w, mvp_mtx: camera matrices; the config says which of them the LoRA is shown.
            noise, timesteps: fixed values of the distillation instead of random ones.
            guidance_eval: also decode what the pretrained model saw and what it made of it.

        Raises:
            NonFiniteScoreError: the score is not finite.
        """
        check_rest_of_batch(batch, self)
        cameras = (elevation, azimuth, camera_distances)
        latents = self._given_latents(rgb) if rgb_as_latents else self.encode(rgb)
        seen = self._seen_by_lora(prompt_utils, cameras, c2w, mvp_mtx)
        texts = self.embeddings(prompt_utils, *cameras)
        return self._distil_encoded(latents, texts, seen, timesteps, noise, guidance_eval)

    def _seen_by_lora(
        self, prompt_utils: PromptProcessorOutput, cameras: tuple[Tensor, ...], c2w: Tensor, mvp_mtx: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The plain prompt [B, L, D] and the cameras [B, 16]."""
        plain = prompt_utils.get_text_embeddings(*cameras, False).to(self.device).chunk(2)[0]
        return plain, self.camera(c2w, mvp_mtx)

    def _distil_encoded(
        self,
        latents: Tensor,
        texts: tuple[Tensor, Tensor],
        seen_by_lora: tuple[Tensor, Tensor],
        timesteps: Tensor | None,
        noise: Tensor | None,
        guidance_eval: bool,
    ) -> ScoreDistillation:
        (text, negative), (plain, camera) = texts, seen_by_lora
        with torch.no_grad():
            noisy, timesteps, _ = self.add_noise(latents, timesteps, noise)
            eps, x0 = self.predict(noisy, timesteps, text, negative)
            with self.single_precision():
                eps_lora, x0_lora = self.lora.predict(noisy, timesteps, plain, camera, self.cfg.guidance_scale_lora)
            # SDS against the renders' own score: what the LoRA predicts stands where the true noise and latents did.
            gradient = sd.score_gradient(
                self._coefficients[timesteps], self._form, latents=x0_lora, noise=eps_lora, eps=eps, x0=x0
            )
            evaluation = self._evaluation(noisy, x0, timesteps) if guidance_eval else None
        return self.distil_gradient(latents, gradient, timesteps, evaluation=evaluation)

    def __call__(
        self,
        rgb: Float[Tensor, "B H W 3"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Float[Tensor, "B 4 4"],
        mvp_mtx: Float[Tensor, "B 4 4"] | None = None,
        rgb_as_latents: bool = False,
        noise: Float[Tensor, "B C h w"] | None = None,
        timesteps: Int[Tensor, " B"] | None = None,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """threestudio's way to ask, with the arguments of ``distill``: ``loss_vsd``, ``loss_lora``, ``grad_norm``,
        ``min_step``, ``max_step``, ``eval``.
        """
        check_rest_of_batch(batch, self)
        cameras = (elevation, azimuth, camera_distances)
        latents = self._given_latents(rgb) if rgb_as_latents else self.encode(rgb)
        seen = self._seen_by_lora(prompt_utils, cameras, c2w, mvp_mtx)
        texts = self.embeddings(prompt_utils, *cameras)
        distillation = self._distil_encoded(latents, texts, seen, timesteps, noise, guidance_eval)
        return {**self.result(distillation, "loss_vsd"), "loss_lora": self.lora_loss(latents, *seen)}
