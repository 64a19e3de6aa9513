"""The networks behind metrics: loaded once, if they are there; else the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .clip_similarity import ClipEmbedder, load_clip
from .hashes import file_digest
from .lpips import LPIPS, SMALLEST_PICTURE, find_weights, load_lpips
from .protocols import Metric, Protocol
from .video_features import VideoFeatures, load_video_features

# Pixels that go through an LPIPS trunk at once: about 1 GB of features with VGG16.
_LPIPS_PIXELS = 1 << 19


class Networks:
    """The networks that the chosen metrics need, what a result says of them, and why others are missing."""

    def __init__(self, device: torch.device, lpips_folder: str | Path | None, clip_name: str | None):
        self.device = device
        self.lpips_folder, self.clip_name = lpips_folder, clip_name
        self.lpips: dict[str, LPIPS] = {}
        self.clip: ClipEmbedder | None = None
        self.fvd: VideoFeatures | None = None
        self.described: dict[str, dict[str, str]] = {}
        self.skipped: dict[str, str] = {}

    def load(self, metrics: list[Metric], protocol: Protocol, fvd_network: str | Path | VideoFeatures | None) -> None:
        for need in dict.fromkeys(metric.needs for metric in metrics if metric.needs):
            try:
                if need.startswith("lpips") and protocol.size < SMALLEST_PICTURE:
                    raise UserError(f"LPIPS takes pictures of {SMALLEST_PICTURE} pixels or more, not {protocol.size}")
                if need == "clip":
                    self._load_clip()
                elif need == "fvd":
                    self._load_fvd(fvd_network)
                else:
                    self._load_lpips(need.removeprefix("lpips-"))
            except UserError as error:
                self.skipped |= {metric.name: str(error) for metric in metrics if metric.needs == need}
        if not protocol.needs_alpha and any(metric.name == "iou" for metric in metrics):
            self.skipped["iou"] = f"the protocol {protocol.name} accepts frames without alpha: no silhouettes"

    def _load_lpips(self, trunk: str) -> None:
        path = find_weights(trunk, self.lpips_folder)
        self.lpips[trunk] = load_lpips(trunk, self.lpips_folder).to(self.device)
        self.described[f"lpips-{trunk}"] = {"file": path.name, "sha256": file_digest(path)}

    def _load_clip(self) -> None:
        self.clip = load_clip(self.clip_name, self.device)
        name = Path(self.clip.name).name if Path(self.clip.name).exists() else self.clip.name
        self.described["clip"] = {"name": name, "sha256": self.clip.sha256}
        if not self.clip.is_published_architecture:
            self.described["clip"]["note"] = (
                f"the CLIP of {name} is not a ViT-B/32: CLIP numbers are not comparable with published ones"
            )

    def _load_fvd(self, network: str | Path | VideoFeatures | None) -> None:
        is_ready = isinstance(network, VideoFeatures)
        self.fvd = network if is_ready else load_video_features(network, self.device)
        self.described["fvd"] = {"name": self.fvd.name, "kind": self.fvd.kind, "sha256": self.fvd.sha256}


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, after one look at whether it is there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def lpips_of_clips(network: LPIPS, clip: np.ndarray, truth: np.ndarray, device: torch.device) -> float:
    """Mean over frames of LPIPS, of clips [N, S, S, 3 or more] in [0, 1]."""
    batch = max(1, _LPIPS_PIXELS // (clip.shape[1] * clip.shape[2]))
    distances = []
    with torch.no_grad():
        for start in range(0, len(clip), batch):
            first, second = (
                torch.from_numpy(np.ascontiguousarray(side[start : start + batch, ..., :3])).permute(0, 3, 1, 2)
                for side in (clip, truth)
            )
            distances.append(network(2 * first.to(device) - 1, 2 * second.to(device) - 1))
    return float(torch.cat(distances).double().mean())
