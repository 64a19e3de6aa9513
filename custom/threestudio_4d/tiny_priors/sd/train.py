"""Train the built-in text-to-image prior ``sd-tiny`` on renders of posed meshes and their captions.

    python -m threestudio_4d.tiny_priors.sd.train --pack motion.npz --text clip-tiny --out run/sd --minutes 12

A second call with the same ``--out`` goes on where the first one stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from ...arguments import Amount, Count, Share
from ...command import command
from ...diffusion.sd.model import StableDiffusionModel
from ...guidance.score_distillation import add_noise, v_from_eps_x0
from ..assets.captions import TEMPLATES, Captions
from ..image_text.evaluation import picture_features, view_accuracy
from ..image_text.model import ImageTextModel
from ..rendering.scenes import PosedMeshes
from ..sampling.jitter import ShapeJitter
from ..sampling.sentence_table import SentenceTable
from ..sampling.view_sampler import ViewSampler
from ..sampling.view_words import VIEW_WORDS, draw_views, view_numbers
from ..training.initial_weights import start_unet_from
from ..training.loop import NumberList, draw_timesteps, parse_config, train
from ..training.text import TextTrainingConfig
from .evaluation import CaptionedPictures, denoising_losses, one_step_psnr, sample_pictures, sample_scores
from .networks import build_sd_tiny


@dataclass(kw_only=True)
class SdTrainingConfig(TextTrainingConfig):
    """Settings of the training of ``sd-tiny``; see ``TextTrainingConfig`` for the others.

    Attributes:
        view_share: share of captions that end in view words (", front view").
        evaluation_pictures: renders that the final scores are measured on, of each split.
    """

    channels: NumberList = "48,96,96"
    view_share: Share = 0.5
    jitter_steps: Amount = 0
    evaluation_pictures: Count = 2048


class SdTask:
    """Pictures of single views with their captions; see ``training.PriorTask``."""

    def __init__(self, config: SdTrainingConfig, device: torch.device, seed: int) -> None:
        self.config = config
        self.clip = ImageTextModel.load(config.text, device)
        self.model = build_sd_tiny(self.clip.text, config.image_size, config.widths).to(device)
        if config.initial:
            start_unet_from(self.model.unet, config.initial, UNet2DConditionModel)
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.captions = Captions.from_meshes(self.meshes, TEMPLATES)
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.table = SentenceTable(self.clip.text, self.captions.sentences, VIEW_WORDS, half)
        self.sampler = ViewSampler(self.meshes, 1, config.image_size, seed, captions=self.captions)
        self.held_out = self._pictures(validation=True)
        self.training = self._pictures(validation=False)
        self.mean_picture = self.training.images.mean(0)
        # Colours stay: captions name them.
        self.jitter = ShapeJitter(self.meshes, seed, recoloured_share=0.0) if config.jitter_steps else None
        self.generator = torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def _pictures(self, validation: bool) -> CaptionedPictures:
        """Renders, the same in every run, captioned with what the asset is."""
        sampler = ViewSampler(self.meshes, 1, self.config.image_size, 4321, validation, captions=self.captions)
        views = sampler(self.config.evaluation_pictures)
        caption = self.captions.asset_caption_index[self.meshes.pose_asset[views.pose].long()]
        view = view_numbers(views.elevation[:, 0], views.azimuth[:, 0])
        faces = torch.tensor(self.meshes.animated, device=view.device)[self.meshes.pose_asset[views.pose].long()]
        return CaptionedPictures(views.images[:, 0].contiguous(), caption, view, faces)

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Pictures [B, 3, S, S], contexts [B, L, D], timesteps [B] and noise [B, C, h, w]."""
        views, config = self.sampler(count), self.config
        device = views.images.device
        u = torch.rand(2, count, generator=self.generator, device=device)
        view = draw_views(views.elevation[:, 0], views.azimuth[:, 0], u[0], config.view_share)
        context = self.table(views.caption, view, u[1] < config.text_dropout)
        t = draw_timesteps(count, self.model.num_train_timesteps - 1, config.terminal_share, device)
        return views.images[:, 0], context, t, torch.randn((count, *self.model.latent_shape), device=device)

    def loss(self, model: StableDiffusionModel, images: Tensor, context: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v-prediction loss (Salimans and Ho, 2022)."""
        x0, alpha_bar = model.encode(images, sample=False), model.alphas_cumprod[t]
        output = model.denoise(add_noise(x0, noise, alpha_bar), t, context)
        return F.mse_loss(output, v_from_eps_x0(noise, x0, alpha_bar))

    def refresh(self, step: int) -> None:
        """New shapes every ``jitter_steps``."""
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def evaluate(self, average: StableDiffusionModel, final: bool) -> dict[str, Any]:
        """Losses with the right, a wrong and no text on both splits; at the end also scores of samples."""
        scores: dict[str, Any] = {}
        splits = {"held_out": self.held_out, "train": self.training}
        for name, pictures in splits.items():
            contexts = self.table.compared(pictures.caption, pictures.wrong_captions())
            scores[name] = {
                "loss": denoising_losses(average, pictures, contexts),
                "one_step_psnr": one_step_psnr(average, pictures, contexts, self.mean_picture),
            }
            if final:
                others = {f"{other}_renders": p.images for other, p in splits.items() if other != name}
                scores[name]["samples"] = self._sample_scores(average, pictures, contexts, others)
        return scores

    def _sample_scores(
        self,
        average: StableDiffusionModel,
        pictures: CaptionedPictures,
        contexts: dict[str, Tensor],
        others: dict[str, Tensor],
    ) -> dict[str, Any]:
        def draw(context: Tensor) -> Tensor:
            return sample_pictures(average, context, self.table.empty, 25, self.config.evaluation_scale)

        sentences, faces = self.captions.sentences, pictures.faces
        samples = {kind: draw(context) for kind, context in contexts.items()}
        scores = sample_scores(
            self.clip, sentences, samples, pictures.caption, pictures.images, others, self.mean_picture
        )
        if bool(faces.any()):
            caption, view = pictures.caption[faces], pictures.view[faces]
            drawn = {"samples": draw(self.table(caption, view)), "renders": pictures.images[faces]}
            words = [sentences[number] for number in caption.tolist()]
            scores["view_words"] = {
                name: view_accuracy(self.clip, picture_features(self.clip, images), words, view)
                for name, images in drawn.items()
            }
        return scores

    def save(self, average: StableDiffusionModel, folder: Path) -> None:
        average.save(folder)


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(
        SdTrainingConfig, __doc__, argv, minutes=12.0, batch_size=512, learning_rate=1e-3, evaluate_minutes=2.0
    )
    train(lambda device, seed: SdTask(config, device, seed), config)


if __name__ == "__main__":
    sys.exit(main())
