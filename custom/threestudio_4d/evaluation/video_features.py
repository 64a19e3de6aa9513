"""Video features for FVD: an I3D that the user has, and the two published ways to prepare clips for it.

No registry package carries I3D, so nothing is fetched: ``--fvd-network`` names the file. Two kinds are known:

* a **state dictionary** of :class:`i3d.I3D` (``i3d_pretrained_400.pt``), read as tensors only;
* a **TorchScript** archive (StyleGAN-V's ``i3d_torchscript.pt``). Loading one **runs the program in it**, so it is
  loaded only from that path, and its SHA-256 is part of the result.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..diffusion.weights.safe_checkpoint import read_state_dict
from ..errors import UserError
from .hashes import file_digest
from .i3d import I3D, MINIMUM_FRAMES

RESOLUTION = 224
WHERE = (
    "needs an I3D network, which cannot be fetched: give --fvd-network FILE, i3d_pretrained_400.pt (the Consistent4D "
    "evaluator's) or i3d_torchscript.pt (StyleGAN-V's, github.com/universome/fvd-comparison)"
)


@dataclass
class VideoFeatures:
    """``network``: clips [B, 3, T, 224, 224] in [-1, 1] to features [B, D]; and what a result says of it.

    ``consistent4d`` is the extractor for ``fvd_consistent4d`` where that has one of its own.
    """

    network: Callable[[Tensor], Tensor]
    name: str
    sha256: str
    kind: str
    minimum_frames: int = MINIMUM_FRAMES
    device: torch.device = torch.device("cpu")
    consistent4d: VideoFeatures | None = None

    @torch.no_grad()
    def __call__(self, clip: Tensor) -> np.ndarray:
        """Features [D], float64, of one prepared clip [3, T, 224, 224]."""
        features = self.network(clip[None].to(self.device))
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
            raise UserError(f"{self.name} must give one row of features a clip; it gives {_shape(features)}")
        return features[0].double().cpu().numpy()


def load_video_features(path: str | Path | None, device: torch.device) -> VideoFeatures:
    """The extractor in a file.

    Raises:
        UserError: no file, or none of the two kinds.
    """
    if path is None:
        raise UserError(WHERE)
    file = Path(path)
    if not file.is_file():
        raise UserError(f"there is no file {file}; it {WHERE}")
    if _is_torchscript(file):
        return VideoFeatures(_torchscript(file, device), file.name, file_digest(file), "TorchScript", device=device)
    state = read_state_dict(file)
    networks = I3D(), I3D.of_consistent4d()
    for network in networks:
        try:
            network.load_state_dict(_without_counters(state, network))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()[:200]
            raise UserError(f"{file} is neither a TorchScript archive nor the weights of I3D: {reason}") from error
    about = (file.name, file_digest(file), "I3D state")
    videogpt, consistent4d = (network.to(device) for network in networks)
    own = VideoFeatures(consistent4d, *about, minimum_frames=1, device=device)
    return VideoFeatures(videogpt, *about, device=device, consistent4d=own)


def prepare_consistent4d(frames: list[Image.Image]) -> Tensor:
    """RGB frames as Consistent4D's script prepares them: [3, T, 224, 224] in [-1, 1], bicubic on each channel in
    floating point (so beyond [-1, 1] at edges)."""
    planes = [
        [
            np.asarray(channel.convert("F").resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC))
            for channel in frame.split()
        ]
        for frame in frames
    ]
    return torch.from_numpy(np.array(planes, np.float32)).transpose(0, 1) / 127.5 - 1


def prepare_styleganv(frames: list[Image.Image]) -> Tensor:
    """RGB frames as StyleGAN-V's FVD and its ports prepare them: [3, T, 224, 224] in [-1, 1], bilinear without
    antialiasing."""
    pictures = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2).float() / 255
    pictures = F.interpolate(pictures, (RESOLUTION, RESOLUTION), mode="bilinear", align_corners=False)
    return (2 * pictures - 1).transpose(0, 1)


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())


def _torchscript(file: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:
        module = torch.jit.load(str(file), map_location=device).eval()
    except RuntimeError as error:
        raise UserError(f"{file} is not a TorchScript archive that loads here: {str(error).splitlines()[0]}") from error
    arguments = {argument.name for argument in module.forward.schema.arguments}
    # StyleGAN-V's detector rescales and resizes by itself unless told that both are done.
    options = {"rescale": False, "resize": False, "return_features": True}
    options = {name: value for name, value in options.items() if name in arguments}
    return lambda clips: module(clips, **options)


def _without_counters(state: dict[str, Tensor], network: torch.nn.Module) -> dict[str, Tensor]:
    """Counters of batches, which older files lack and evaluation ignores, come from the network itself."""
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    return counters | state


def _shape(value: object) -> str:
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
