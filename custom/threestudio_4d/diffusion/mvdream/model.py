"""The networks of an MVDream prior, published or built in: one class, one code path.

MVDream (Shi et al., ICLR 2024) draws four views of one object from a sentence. It is a text-to-image UNet with two
changes: every self-attention runs over the tokens of all views of an object together ("3D self-attention"), and the
pose of each camera is embedded and added to the embedding of the timestep. Neither needs another network class: an
attention processor merges the views, and a ``projection`` class embedding (Linear, SiLU, Linear) takes the camera.

A camera is the 4 x 4 camera-to-world matrix, row by row, with its position scaled to distance 1. Its axes are OpenGL's
(x right, y up, looking along -z) and the world's z points up, which is Blender's convention, threestudio's and ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from ...errors import UserError
from ...guidance import score_distillation as sd
from ..codec import PixelUnshuffleCodec
from ..sd.model import StableDiffusionModel
from ..text import TextConditioner
from ..weights.resolve import read_index

CAMERA_DIM = 16
VIEWS = 4
MVDREAM_PARTS = ("unet", "vae", "scheduler")


def camera_condition(c2w: Tensor) -> Tensor:
    """Cameras as MVDream takes them: camera-to-world matrices [B, 4, 4] -> [B, 16], positions scaled to length 1.

    The input stays as it is. A position within 1e-8 of the origin has no direction and stays near zero.
    """
    position = c2w[:, :3, 3]
    matrix = c2w.clone()
    matrix[:, :3, 3] = position / (position.norm(dim=1, keepdim=True) + 1e-8)
    return matrix.flatten(1)


class MultiViewAttention:
    """Attention processor of a self-attention over all views of an object: [(B V), L, C] as [B, (V L), C].

    Args:
        views: V, the number of consecutive rows of the batch that show one object.
    """

    def __init__(self, views: int) -> None:
        self.views = views
        self.attend = AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows, length, width = hidden_states.shape
        merged = hidden_states.reshape(rows // self.views, self.views * length, width)
        return self.attend(attn, merged, *args, **kwargs).reshape(rows, length, width)


def attend_across_views(unet: UNet2DConditionModel, views: int) -> UNet2DConditionModel:
    """Let the self-attentions (``attn1``) of every transformer block see ``views`` views at once; returns ``unet``."""
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            own = name.rpartition(".")[2] == "attn1"
            module.set_processor(MultiViewAttention(views) if own else AttnProcessor2_0())
    return unet


class MVDreamModel(StableDiffusionModel):
    """UNet, image codec and, if wanted, text tower of a text-to-multi-view prior.

    Batches hold the views of an object one after the other: B objects with V views are N = B V rows.

    Args:
        unet: its ``projection`` class embedding receives the 16 numbers of a camera.
        vae, scheduler, text: as of ``StableDiffusionModel``.
        views: V.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | PixelUnshuffleCodec,
        scheduler: DDIMScheduler,
        text: TextConditioner | None = None,
        views: int = VIEWS,
    ) -> None:
        config = unet.config
        if config.class_embed_type != "projection" or config.projection_class_embeddings_input_dim != CAMERA_DIM:
            raise UserError(
                "the UNet of an MVDream prior takes cameras through a class embedding of type 'projection' with "
                f"{CAMERA_DIM} inputs, got class_embed_type={config.class_embed_type!r} with "
                f"{config.projection_class_embeddings_input_dim}"
            )
        super().__init__(attend_across_views(unet, views), vae, scheduler, text)
        self.views = views

    def denoise(self, noisy: Tensor, t: Tensor, text: Tensor, camera: Tensor) -> Tensor:
        """Raw network output [N, C, h, w] in single precision.

        Args:
            noisy: [N, C, h, w].
            t: timesteps, [N].
            text: embeddings of the prompts, [N, L, D].
            camera: [N, 16], see ``camera_condition``.
        """
        if len(noisy) % self.views:
            raise ValueError(f"{len(noisy)} pictures do not divide into groups of {self.views} views")
        return super().denoise(noisy, t, text, class_labels=camera)

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        text: Tensor,
        negative: Tensor | None,
        camera: Tensor,
        guidance_scale: float = 1.0,
        std_rescale: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latents after guidance, [N, C, h, w] each. Both passes know the cameras.

        Args:
            text, negative: embeddings of prompts and of negative or empty prompts, [N, L, D].
            guidance_scale: s of ``negative + s (text - negative)``; 1 takes one pass and no ``negative``.
            std_rescale: how far the standard deviation of the guided clean latents is moved back to that of the
                conditional ones, over all views of an object together: 0 not, 1 fully (Lin et al. 2024, eq. 15-16,
                on clean latents as in MVDream's appendix).
        """
        if guidance_scale == 1:
            return self.to_epsilon_and_x0(self.denoise(noisy, t, text, camera), noisy, t)
        if negative is None:
            raise ValueError("a guidance_scale other than 1 needs the embeddings of the negative or empty prompt")
        unconditional, conditional = self.denoise(
            torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([negative, text]), torch.cat([camera, camera])
        ).chunk(2)
        guided = sd.classifier_free_guidance(unconditional, conditional, guidance_scale)
        eps, x0 = self.to_epsilon_and_x0(guided, noisy, t)
        if not std_rescale:
            return eps, x0
        _, plain = self.to_epsilon_and_x0(conditional, noisy, t)
        x0 = rescale_std(x0, plain, self.views, std_rescale)
        return sd.eps_from_x0(noisy, x0, self.alphas_cumprod[t]), x0

    @torch.no_grad()
    def sample(
        self,
        text: Tensor,
        negative: Tensor | None,
        camera: Tensor,
        steps: int = 50,
        guidance_scale: float = 5.0,
        std_rescale: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw views by DDIM (Song et al., 2021): embeddings [N, L, D], cameras [N, 16] -> images [N, 3, S, S] in
        [0, 1].

        Timesteps are spaced as the prior's scheduler says: 981, 961, ... 1 in 50 steps of the published one.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=camera.device)
        device = generator.device if generator is not None else camera.device
        latents = torch.randn((len(camera), *self.latent_shape), generator=generator, device=device).to(camera.device)
        predicts_v = self.prediction_type == "v_prediction"
        for t in scheduler.timesteps:
            rows = t.expand(len(camera))
            eps, x0 = self.predict(latents, rows, text, negative, camera, guidance_scale, std_rescale)
            output = sd.v_from_eps_x0(eps, x0, self.alphas_cumprod[rows]) if predicts_v else eps
            latents = scheduler.step(output, t, latents, return_dict=False)[0]
        return self.decode(latents)

    @classmethod
    def _settings(cls, folder: Path) -> dict[str, Any]:
        return {"views": read_index(folder).get("views", VIEWS)}

    def _index(self, int8: bool) -> dict[str, Any]:
        return {"_class_name": type(self).__name__, "views": self.views}


def rescale_std(guided: Tensor, plain: Tensor, views: int, strength: float) -> Tensor:
    """``strength (std(plain) / std(guided)) guided + (1 - strength) guided``, std over the views of an object jointly.

    Args:
        guided, plain: clean latents with guidance and without, [B V, C, h, w].

    Returns:
        [B V, C, h, w].
    """
    std_guided, std_plain = (x.unflatten(0, (-1, views)).flatten(1).std(dim=1) + 1e-8 for x in (guided, plain))
    ratio = (std_plain / std_guided).repeat_interleave(views)
    return (strength * sd.per_sample(ratio, guided) + (1.0 - strength)) * guided
