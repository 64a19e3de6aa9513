"""Train the built-in image-text prior ``clip-tiny`` on renders of posed meshes and their captions.

    python -m threestudio_4d.tiny_priors.image_text.train --pack motion.npz --out run/clip --minutes 2

A second call with the same ``--out`` goes on where the first one stopped. ``run/clip/prior`` is then what other text
priors are trained with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arguments import Amount, Count, Share, Side, Steps
from ...command import command
from ..assets.captions import TEMPLATES, Captions
from ..rendering.scenes import PosedMeshes
from ..sampling.jitter import ShapeJitter
from ..sampling.view_sampler import ViewBatch, ViewSampler
from ..sampling.view_words import ANY_VIEW, VIEW_WORDS, draw_views, view_numbers
from ..training.loop import TrainingConfig, parse_config, train
from .evaluation import caption_retrieval, picture_features, view_accuracy
from .model import ImageTextModel
from .networks import build_clip_tiny, build_tokenizer

__all__ = ["ClipTask", "ClipTrainingConfig", "build_clip_tiny", "build_tokenizer", "contrastive_loss"]


@dataclass(kw_only=True)
class ClipTrainingConfig(TrainingConfig):
    """Settings of the training of ``clip-tiny``; see ``TrainingConfig`` for the others.

    Attributes:
        pack: meshes, as ``threestudio_4d.tiny_priors.assets.pack`` writes them.
        limit: at most that many animated assets and as many stills; 0 takes all.
        image_size: of the pictures.
        width, layers: of both towers.
        vocab_size: at most that many tokens.
        view_share: share of captions that end in view words (", front view").
        jitter_steps: new shapes and palettes every so many steps; 0 keeps the assets as they are.
        evaluation_pictures: renders of held-out assets that retrieval is measured on.
    """

    pack: str
    limit: Amount = 0
    image_size: Side = 64
    width: Side = 192
    layers: Steps = 4
    vocab_size: Count = 2048
    view_share: Share = 0.4
    jitter_steps: Amount = 20
    evaluation_pictures: Count = 2048


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """Symmetric cross entropy of cosines (Radford et al., 2021) where a picture may have several right sentences.

    Each row's target is uniform over its positives, and so is each column's: with one positive in each it is the
    published loss.

    Args:
        image, text: unit vectors, [B, P].
        scale: of the logits, 0-dim.
        positive: [B, B] float, 1 where sentence j fits picture i; 1 on the diagonal.
    """
    with torch.autocast(image.device.type, enabled=False):  # half precision is too coarse for logits up to 100
        logits = scale * image @ text.T
        rows = -(positive / positive.sum(1, keepdim=True) * F.log_softmax(logits, 1)).sum(1).mean()
        columns = -(positive / positive.sum(0, keepdim=True) * F.log_softmax(logits, 0)).sum(0).mean()
        return 0.5 * (rows + columns)


def fits(said: Tensor, plain: Tensor, acting: Tensor, said_view: Tensor, view: Tensor) -> Tensor:
    """[B, B] float, 1 where the sentence of sample j is true of the picture of sample i.

    Args:
        said: caption of each sample's sentence, without template and view words, [B].
        plain: the caption that only names the asset of each picture, [B].
        acting: the caption that also says what it does, [B].
        said_view: number of each sentence's view words, [B].
        view: number of the view words that are true of each picture, [B].
    """
    caption = (said[None] == plain[:, None]) | (said[None] == acting[:, None])
    return (caption & ((said_view[None] == view[:, None]) | (said_view[None] == ANY_VIEW))).float()


class ClipTask:
    """Pictures of single views with their captions; see ``training.PriorTask``."""

    def __init__(self, config: ClipTrainingConfig, device: torch.device, seed: int) -> None:
        self.config = config
        self.meshes = PosedMeshes.load(config.pack, device, config.limit or None)
        self.captions = Captions.from_meshes(self.meshes, TEMPLATES)
        sentences = [sentence + words for words in VIEW_WORDS for sentence in self.captions.sentences]
        tokenizer = build_tokenizer(sentences, Path(config.out) / "tokenizer", config.vocab_size)
        clip = build_clip_tiny(len(tokenizer), config.width, config.layers, config.image_size)
        self.model = ImageTextModel.from_clip(clip, tokenizer).to(device)
        self.ids = self.model.text.tokens(sentences)  # [views * S, L]: nothing is tokenised in the loop
        self.sampler = ViewSampler(self.meshes, 1, config.image_size, seed, captions=self.captions)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.splits = {"held_out": self._pictures(True), "train": self._pictures(False)}
        self.jitter = ShapeJitter(self.meshes, seed) if config.jitter_steps else None

    @torch.no_grad()
    def _pictures(self, validation: bool) -> ViewBatch:
        """Pictures of one split, always the same ones and in their own shape."""
        sampler = ViewSampler(self.meshes, 1, self.config.image_size, 1234, validation, captions=self.captions)
        return sampler(self.config.evaluation_pictures)

    def draw(self, count: int) -> tuple[Tensor, ...]:
        """Pictures [B, 3, S, S], token numbers [B, L], and what ``fits`` takes, [B] each."""
        views, config = self.sampler(count), self.config
        captions, assets = self.captions, self.meshes.pose_asset
        u = torch.rand(count, generator=self.generator, device=self.meshes.device)
        sentence = views.caption
        said = sentence // captions.templates * captions.templates
        plain = captions.asset_caption_index[assets[views.pose].long()]
        elevation, azimuth = views.elevation[:, 0], views.azimuth[:, 0]
        said_view = draw_views(elevation, azimuth, u, config.view_share)
        ids = self.ids[sentence + said_view * len(captions.sentences)]
        truth = (said, plain, captions.pose_caption[views.pose], said_view, view_numbers(elevation, azimuth))
        return views.images[:, 0], ids, *truth

    def loss(self, model: ImageTextModel, images: Tensor, ids: Tensor, *truth: Tensor) -> Tensor:
        """``contrastive_loss`` of a batch."""
        return contrastive_loss(model.image_features(images), model.token_features(ids), model.scale(), fits(*truth))

    def refresh(self, step: int) -> None:
        """New shapes and palettes every ``jitter_steps``."""
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()

    def evaluate(self, average: ImageTextModel, final: bool) -> dict[str, Any]:
        """Retrieval among the captions of each split, and of the view words of assets that have a front."""
        scores: dict[str, Any] = {}
        for name, views in self.splits.items():
            asset = self.meshes.pose_asset[views.pose].long()
            caption = self.captions.asset_caption_index[asset]
            features = picture_features(average, views.images[:, 0])
            scores[name] = caption_retrieval(average, features, self.captions.sentences, caption)
            faces = torch.tensor(self.meshes.animated, device=asset.device)[asset]
            if bool(faces.any()):
                captions = [self.captions.sentences[i] for i in caption[faces].tolist()]
                view = view_numbers(views.elevation[faces, 0], views.azimuth[faces, 0])
                scores[name]["views"] = view_accuracy(average, features[faces], captions, view)
        return scores

    def save(self, average: ImageTextModel, folder: Path) -> None:
        average.save(folder, int8=True)  # what other priors are trained with is what ships


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(ClipTrainingConfig, __doc__, argv, minutes=2.0, batch_size=2048, evaluate_minutes=0.5)
    train(lambda device, seed: ClipTask(config, device, seed), config)


if __name__ == "__main__":
    sys.exit(main())
