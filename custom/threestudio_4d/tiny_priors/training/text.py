"""Settings that the trainings of all priors from text share."""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments import Amount, Scale, Share, Side
from .loop import NumberList, TrainingConfig


@dataclass(kw_only=True)
class TextTrainingConfig(TrainingConfig):
    """More settings; see ``TrainingConfig`` for the others.

    Attributes:
        pack: meshes, as ``threestudio_4d.tiny_priors.assets.pack`` writes them; several with commas between.
        text: image-text prior whose frozen text tower is used, and which judges samples: a name or a folder.
        limit: at most that many animated assets and as many stills; 0 takes all.
        initial: folder of a prior to start from: of the same kind, or for views and clips one of pictures.
        image_size: of the pictures, views or frames.
        channels: of the UNet's resolutions, the finest first, separated by commas.
        text_dropout: share of samples without text, for classifier-free guidance.
        terminal_share: share of samples at the last timestep (pure noise).
        jitter_steps: new shapes every so many steps; 0 keeps the assets as they are.
        evaluation_scale: guidance scale of the samples that are scored.
    """

    pack: str
    text: str = "clip-tiny"
    limit: Amount = 0
    initial: str | None = None
    image_size: Side = 64
    channels: NumberList
    text_dropout: Share = 0.1
    terminal_share: Share = 0.05
    jitter_steps: Amount = 50
    evaluation_scale: Scale = 1.5

    @property
    def widths(self) -> tuple[int, ...]:
        """``channels`` as numbers."""
        return tuple(int(width) for width in self.channels.split(","))
