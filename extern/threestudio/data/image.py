"""``single-image-datamodule``: a picture with alpha and its camera, beside those of ``random-camera-datamodule``."""

import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from threestudio import register
from threestudio.data.uncond import (
    Elevation,
    FieldOfView,
    PerStage,
    RandomCameraDataModuleConfig,
    RandomCameraDataset,
    RandomCameraIterableDataset,
    look_at,
    spherical_to_position,
)
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_ray_directions, get_rays
from threestudio.utils.values import Count, NotNegative, Number, Positive

__all__ = ["SingleImageDataModule", "SingleImageDataModuleConfig", "SingleImageDataset", "SingleImageIterableDataset"]

NEAR, FAR = 0.1, 100.0


@dataclass
class SingleImageDataModuleConfig:
    height: PerStage = 96
    width: PerStage = 96
    resolution_milestones: list[Count] = field(default_factory=list)
    default_elevation_deg: Elevation = 0.0
    default_azimuth_deg: Number = -180.0
    default_camera_distance: Positive = 1.2
    default_fovy_deg: FieldOfView = 60.0
    image_path: str = ""
    use_random_camera: bool = True
    random_camera: Annotated[dict, RandomCameraDataModuleConfig] = field(default_factory=dict)
    rays_noise_scale: NotNegative = 2e-3
    batch_size: Count = 1
    requires_depth: bool = False
    requires_normal: bool = False
    rays_d_normalize: bool = True


def _read(path: Path) -> Tensor:
    """A picture as float [H, W, C] in [0, 1]; C is 3, or 4 with alpha."""
    from threestudio_4d.data.picture_file import read_picture

    if not path.is_file():
        raise UserError(f"data.image_path: there is no picture {path}.")
    return torch.from_numpy(read_picture(path).astype(np.float32) / 255)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """[H, W, C] to [height, width, C], by areas."""
    from threestudio_4d.data.clip import resize_premultiplied

    return torch.from_numpy(resize_premultiplied(picture.numpy(), height, width))


class SingleImageDataBase:
    """The picture at the size of the present stage, and the camera that took it."""

    def setup(self, cfg: Any, split: str) -> None:
        self.cfg: SingleImageDataModuleConfig = cfg
        self.split = split
        if cfg.use_random_camera:
            cameras = parse_structured(RandomCameraDataModuleConfig, cfg.random_camera)
            self.random_pose_generator: Any = (
                RandomCameraIterableDataset(cameras) if split == "train" else RandomCameraDataset(cameras, split)
            )
        self.heights = [cfg.height] if isinstance(cfg.height, int) else list(cfg.height)
        self.widths = [cfg.width] if isinstance(cfg.width, int) else list(cfg.width)
        stages = len(self.heights)
        if len(self.widths) != stages or (stages > 1 and len(cfg.resolution_milestones) != stages - 1):
            raise UserError(
                f"data.height has {stages} values, data.width {len(self.widths)} and data.resolution_milestones "
                f"{len(cfg.resolution_milestones)}: give one size for each stage and one step for each change."
            )
        self.resolution_milestones = [-1, *cfg.resolution_milestones][:stages]
        self.elevation_deg = torch.tensor([cfg.default_elevation_deg])
        self.azimuth_deg = torch.tensor([cfg.default_azimuth_deg])
        self.camera_distance = torch.tensor([cfg.default_camera_distance])
        self.fovy = torch.deg2rad(torch.tensor([cfg.default_fovy_deg]))
        self.camera_position = spherical_to_position(self.elevation_deg, self.azimuth_deg, self.camera_distance)
        self.light_position = self.camera_position
        self.c2w4x4 = look_at(self.camera_position, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
        self._read_pictures()
        self._select_stage(0)

    def _read_pictures(self) -> None:
        path = Path(self.cfg.image_path)
        if not self.cfg.image_path:
            raise UserError("data.image_path is empty: give a picture with alpha.")
        self._pictures = {"rgba": _read(path)}
        if self._pictures["rgba"].shape[-1] != 4:
            raise UserError(f"data.image_path: {path} has no alpha, which must say where the object is.")
        for kind, wanted in (("depth", self.cfg.requires_depth), ("normal", self.cfg.requires_normal)):
            if wanted:
                self._pictures[kind] = _read(path.with_name(path.name.replace("_rgba.png", f"_{kind}.png")))

    def _select_stage(self, stage: int) -> None:
        self.stage = stage
        self.height, self.width = self.heights[stage], self.widths[stage]
        sized = {kind: _resized(p, self.height, self.width)[None] for kind, p in self._pictures.items()}
        self.rgb, self.mask = sized["rgba"][..., :3], sized["rgba"][..., 3:] > 0.5
        self.depth, self.normal = sized.get("depth"), sized.get("normal")
        if self.depth is not None:
            self.depth = self.depth[..., :1]
        directions = get_ray_directions(H=self.height, W=self.width, focal=1.0)[None].clone()
        directions[..., :2] /= 0.5 * self.height / torch.tan(0.5 * self.fovy)
        self.rays_o, self.rays_d = get_rays(
            directions,
            self.c2w4x4,
            keepdim=True,
            noise_scale=self.cfg.rays_noise_scale,
            normalize=self.cfg.rays_d_normalize,
        )
        projection = get_projection_matrix(self.fovy, self.width / self.height, NEAR, FAR)
        self.mvp_mtx = get_mvp_matrix(self.c2w4x4, projection)

    def get_all_images(self) -> Tensor:
        """The picture, [1, H, W, 3]."""
        return self.rgb


class SingleImageIterableDataset(IterableDataset, SingleImageDataBase, Updateable):
    """Endless stream of empty items; ``collate`` gives the picture with its camera, and a batch of random cameras."""

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.setup(cfg, split)

    def collate(self, batch: Any) -> dict[str, Any]:
        """One batch.

        Returns:
            ``rgb`` [1, H, W, 3] in [0, 1], ``mask`` [1, H, W, 1] bool, ``ref_depth`` [1, H, W, 1] and ``ref_normal``
            [1, H, W, 3] or None; the camera under the names of ``random-camera-datamodule``, without ``proj_mtx``; and
            ``random_camera``, a batch of that module.
        """
        out = {
            "rays_o": self.rays_o,
            "rays_d": self.rays_d,
            "mvp_mtx": self.mvp_mtx,
            "camera_positions": self.camera_position,
            "light_positions": self.light_position,
            "elevation": self.elevation_deg,
            "azimuth": self.azimuth_deg,
            "camera_distances": self.camera_distance,
            "rgb": self.rgb,
            "ref_depth": self.depth,
            "ref_normal": self.normal,
            "mask": self.mask,
            "height": self.height,
            "width": self.width,
            "c2w": self.c2w4x4,
            "fovy": self.fovy,
        }
        if self.cfg.use_random_camera:
            out["random_camera"] = self.random_pose_generator.collate(None)
        return out

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        stage = bisect.bisect_right(self.resolution_milestones, global_step) - 1
        if stage != self.stage:
            self._select_stage(stage)
        if self.cfg.use_random_camera:
            self.random_pose_generator.update_step(epoch, global_step, on_load_weights)

    def __iter__(self):
        while True:
            yield {}


class SingleImageDataset(Dataset, SingleImageDataBase):
    """The evaluation views of ``random-camera-datamodule``."""

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.setup(cfg, split)

    def __len__(self) -> int:
        return len(self.random_pose_generator)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.random_pose_generator[index]

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        return self.random_pose_generator.collate(batch)


@register("single-image-datamodule")
class SingleImageDataModule(pl.LightningDataModule):
    cfg: SingleImageDataModuleConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(SingleImageDataModuleConfig, cfg)

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = SingleImageIterableDataset(self.cfg, "train")
        if stage in (None, "fit", "validate"):
            self.val_dataset = SingleImageDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = SingleImageDataset(self.cfg, "test")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=None, collate_fn=self.train_dataset.collate)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_dataset)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.test_dataset)

    def _loader(self, dataset: SingleImageDataset) -> DataLoader:
        return DataLoader(dataset, batch_size=1, collate_fn=dataset.collate)
