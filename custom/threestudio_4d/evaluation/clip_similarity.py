"""CLIP image embeddings (Radford et al. 2021) and what is measured with them.

The weights are the user's: a folder or a hub id, `openai/clip-vit-base-patch32` in both the Consistent4D evaluator and
here by default. Without ``--clip`` only what lies on this machine is looked at, and nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..diffusion.weights.resolve import resolve_prior
from ..errors import UserError
from ..paths import find_file
from .hashes import file_digest

PUBLISHED = "openai/clip-vit-base-patch32"
LOCAL_FOLDER = "load/clip-vit-base-patch32"
_BATCH = 16

# Of the training images of the published models (github.com/openai/CLIP).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class ClipEmbedder:
    """A CLIP model with its preprocessing.

    Attributes:
        model: a transformers ``CLIPModel`` in evaluation mode.
        name: what the user called it.
        sha256: of the weights file.
        device: where the model is.
    """

    model: nn.Module
    name: str
    sha256: str
    device: torch.device

    @property
    def is_published_architecture(self) -> bool:
        """Whether it is a ViT-B/32 at 224 pixels with 512 dimensions, as both published protocols use."""
        config = self.model.config
        vision = config.vision_config
        found = (vision.image_size, vision.patch_size, vision.num_hidden_layers, config.projection_dim)
        return found == (224, 32, 12, 512)

    def prepare(self, clip: np.ndarray) -> Tensor:
        """Pictures [N, S, S, 3 or more] in [0, 1] as [N, 3, R, R], R the model's size: 8 bit, bicubic, normalised."""
        side = self.model.config.vision_config.image_size
        eight_bit = np.clip(np.round(clip[..., :3] * 255.0), 0, 255).astype(np.uint8)
        resized = [Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in eight_bit]
        values = np.stack([np.asarray(image, np.float32) for image in resized]) / 255.0
        values = (values - np.float32(_MEAN)) / np.float32(_STD)
        return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)

    @torch.no_grad()
    def embed(self, clip: np.ndarray) -> np.ndarray:
        """Unit embeddings [N, D], float64, of pictures [N, S, S, 3 or more] in [0, 1]."""
        found = []
        for pixels in self.prepare(clip).split(_BATCH):
            features = self.model.get_image_features(pixel_values=pixels.to(self.device))
            features = getattr(features, "pooler_output", features)  # an output class since transformers 5
            found.append(features.double().cpu().numpy())
        embeddings = np.concatenate(found)
        return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def load_clip(name: str | None, device: torch.device) -> ClipEmbedder:
    """The model that ``name`` stands for; None: the published one, if it is on this machine.

    Raises:
        UserError: it is not there, incomplete, or no CLIP.
    """
    folder = _find_published() if name is None else _find(name)
    from transformers import CLIPModel

    from ..diffusion.weights.files import weight_files
    from ..diffusion.weights.network_folder import load_network

    model = load_network(CLIPModel, folder).to(device).requires_grad_(False)
    _, files = weight_files(folder)
    return ClipEmbedder(model, name or PUBLISHED, file_digest(files[0]), device)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over pictures of the cosine of unit embeddings [N, D]."""
    return float((first * second).sum(-1).mean())


def half_squared_angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """4DGen's distance of unit embeddings [..., D]: ``2 arcsin(|x - y| / 2)^2``, half the square of their angle."""
    chord = np.linalg.norm(first - second, axis=-1)
    return 2.0 * np.square(np.arcsin(np.clip(chord / 2.0, 0.0, 1.0)))


def clip_t(embeddings: np.ndarray) -> float:
    """4DGen's CLIP-T of one view, embeddings [N, D] in order of time: mean distance of neighbouring frames."""
    return float(half_squared_angle(embeddings[1:], embeddings[:-1]).mean())


def clip_4dgen(view: np.ndarray, reference: np.ndarray) -> float:
    """4DGen's CLIP of one view, embeddings [N, D]: mean distance to the input's frame of the same time."""
    return float(half_squared_angle(view, reference).mean())


def _find_published() -> Path:
    from huggingface_hub import snapshot_download

    local = find_file(LOCAL_FOLDER)
    if local is not None:
        return local
    try:
        return Path(snapshot_download(PUBLISHED, local_files_only=True))
    except (OSError, ValueError):
        raise UserError(
            f"needs {PUBLISHED} (about 600 MB), which is not on this machine: --clip {PUBLISHED} downloads it, "
            f"--clip FOLDER takes a copy, and so does {LOCAL_FOLDER}"
        ) from None


def _find(name: str) -> Path:
    found = resolve_prior(name)
    if found.kind != "folder":
        raise UserError(f"--clip takes the folder of a CLIP model or a hub id, and {name} is a file")
    if name == PUBLISHED and not any(found.path.glob("*.safetensors")) and not any(found.path.glob("*.bin")):
        return _download_pickled(name)
    return found.path


def _download_pickled(name: str) -> Path:
    """Repositories without safetensors: the older file, which transformers reads as tensors only."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "pytorch_model.bin"], etag_timeout=10))
    except Exception as error:  # the hub client raises many types for one cause: the file cannot be had
        raise UserError(f"downloading {name} failed: {str(error).splitlines()[0]}") from error
