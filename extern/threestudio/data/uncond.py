"""``random-camera-datamodule``: cameras drawn at random around the origin for training, on circles for evaluation.

Angles are degrees in the config and in the batch, except ``fovy``, which the batch has in radians.
"""

import bisect
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from threestudio import register
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_rank
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_ray_directions, get_rays
from threestudio.utils.values import Count, NotNegative, Number, Pixels, Positive, Whole

__all__ = [
    "RandomCameraDataModule",
    "RandomCameraDataModuleConfig",
    "RandomCameraDataset",
    "RandomCameraIterableDataset",
    "look_at",
    "spherical_to_position",
]

NEAR, FAR = 0.01, 100.0


#: one number, or a list that resolution_milestones step through
PerStage = Annotated[Any, Count | list[Count]]
Elevation = Annotated[float, Interval(ge=-90, le=90)]
FieldOfView = Annotated[float, Interval(gt=0, lt=180)]


@dataclass
class RandomCameraDataModuleConfig:
    height: PerStage = 64
    width: PerStage = 64
    batch_size: PerStage = 1
    resolution_milestones: list[Count] = field(default_factory=list)
    eval_height: Pixels = 512
    eval_width: Pixels = 512
    eval_batch_size: Count = 1
    n_val_views: Count = 1
    n_test_views: Count = 120
    elevation_range: tuple[Elevation, Elevation] = (-10, 90)
    azimuth_range: tuple[Number, Number] = (-180, 180)
    camera_distance_range: tuple[Positive, Positive] = (1, 1.5)
    fovy_range: tuple[FieldOfView, FieldOfView] = (40, 70)
    camera_perturb: NotNegative = 0.1
    center_perturb: NotNegative = 0.2
    up_perturb: NotNegative = 0.02
    light_position_perturb: NotNegative = 1.0
    light_distance_range: tuple[Positive, Positive] = (0.8, 1.5)
    eval_elevation_deg: Elevation = 15.0
    eval_camera_distance: Positive = 1.5
    eval_fovy_deg: FieldOfView = 70.0
    light_sample_strategy: Annotated[str, Literal["dreamfusion", "magic3d"]] = "dreamfusion"
    batch_uniform_azimuth: bool = True
    progressive_until: Whole = 0
    rays_d_normalize: bool = True


def spherical_to_position(elevation: Tensor, azimuth: Tensor, distance: Tensor) -> Tensor:
    """Positions [..., 3] from degrees and distances; azimuth 0 is +x and grows towards +y, elevation grows
    towards +z.
    """
    elevation, azimuth = torch.deg2rad(elevation), torch.deg2rad(azimuth)
    flat = distance * torch.cos(elevation)
    return torch.stack([flat * torch.cos(azimuth), flat * torch.sin(azimuth), distance * torch.sin(elevation)], dim=-1)


def look_at(position: Tensor, center: Tensor, up: Tensor) -> Tensor:
    """Rigid camera-to-world matrices [B, 4, 4] (columns right, up, backward, position) that look from position
    to center.
    """
    forward = F.normalize(center - position, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, up, dim=-1), dim=-1)
    true_up = F.normalize(torch.linalg.cross(right, forward, dim=-1), dim=-1)
    c2w = torch.zeros(*position.shape[:-1], 4, 4, dtype=position.dtype, device=position.device)
    c2w[..., :3, :] = torch.stack([right, true_up, -forward, position], dim=-1)
    c2w[..., 3, 3] = 1.0
    return c2w


def _camera_batch(c2w: Tensor, fovy: Tensor, directions: Tensor, height: int, width: int, normalize: bool) -> dict:
    """Rays and matrices of cameras [B, 4, 4] with ``fovy`` [B] radians and directions [H, W, 3] at focal
    length 1 pixel.
    """
    focal = 0.5 * height / torch.tan(0.5 * fovy)
    scaled = directions[None].repeat(c2w.shape[0], 1, 1, 1)
    scaled[..., :2] = scaled[..., :2] / focal[:, None, None, None]
    rays_o, rays_d = get_rays(scaled, c2w, keepdim=True, normalize=normalize)
    proj_mtx = get_projection_matrix(fovy, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, proj_mtx),
        "proj_mtx": proj_mtx,
        "c2w": c2w,
        "fovy": fovy,
    }


def _as_list(value: Any, length: int, name: str) -> list[int]:
    values = [int(value)] if isinstance(value, (int, float)) else [int(v) for v in value]
    if len(values) == 1:
        values = values * length
    if len(values) != length:
        raise UserError(
            f"data.{name} has {len(values)} values, but resolution_milestones and the sizes make {length} stages: "
            "give one value, or one more than there are milestones."
        )
    return values


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """Endless stream of empty items; ``collate`` draws the cameras of one batch.

    Draws come from a generator of their own, seeded by the global seed, the rank and the number of the batch, so a run
    that continues from a checkpoint sees the cameras it would have seen (``resume_at``).
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        stages = max(len(v) if not isinstance(v, (int, float)) else 1 for v in (cfg.height, cfg.width, cfg.batch_size))
        stages = max(stages, len(cfg.resolution_milestones) + 1)
        if stages != len(cfg.resolution_milestones) + 1:
            raise UserError(
                f"data.height, width or batch_size has {stages} values: data.resolution_milestones needs {stages - 1} "
                f"steps, one for each change, got {list(cfg.resolution_milestones)}."
            )
        self.heights = _as_list(cfg.height, stages, "height")
        self.widths = _as_list(cfg.width, stages, "width")
        self.batch_sizes = _as_list(cfg.batch_size, stages, "batch_size")
        self.resolution_milestones = [-1, *cfg.resolution_milestones]
        self.directions_unit_focals = [
            get_ray_directions(H=h, W=w, focal=1.0) for h, w in zip(self.heights, self.widths, strict=True)
        ]
        self._select_stage(0)
        self.elevation_range = tuple(cfg.elevation_range)
        self.azimuth_range = tuple(cfg.azimuth_range)
        self.camera_distance_range = tuple(cfg.camera_distance_range)
        self.fovy_range = tuple(cfg.fovy_range)
        self.batch_index = 0
        self._missed_updates: deque[int] = deque()
        self._seed = torch.initial_seed() + 7919 * get_rank()

    def _select_stage(self, index: int) -> None:
        self.height, self.width = self.heights[index], self.widths[index]
        self.batch_size = self.batch_sizes[index]
        self.directions_unit_focal = self.directions_unit_focals[index]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self._select_stage(bisect.bisect_right(self.resolution_milestones, global_step) - 1)
        self.progressive_view(global_step)

    def progressive_view(self, global_step: int) -> None:
        """Widen the ranges from the evaluation camera to the full ones over ``progressive_until`` steps."""
        if self.cfg.progressive_until <= 0:
            return
        r = min(1.0, global_step / (self.cfg.progressive_until + 1))
        eval_elevation = self.cfg.eval_elevation_deg
        low, high = self.cfg.elevation_range
        self.elevation_range = ((1 - r) * eval_elevation + r * low, (1 - r) * eval_elevation + r * high)
        self.azimuth_range = (r * self.cfg.azimuth_range[0], r * self.cfg.azimuth_range[1])

    def resume_at(self, batch_index: int) -> None:
        """Continue with this batch; the two batches that were fetched ahead follow the schedules of their own time."""
        self.batch_index = batch_index
        self._missed_updates = deque(max(batch_index + i - 2, -1) for i in range(2))

    def __iter__(self):
        while True:
            yield {}

    def collate(self, batch: Any) -> dict[str, Any]:
        """One batch of cameras, on the CPU.

        Returns:
            ``rays_o, rays_d`` [B, H, W, 3]; ``mvp_mtx, proj_mtx, c2w`` [B, 4, 4]; ``camera_positions, light_positions``
            [B, 3]; ``elevation, azimuth`` [B] degrees and ``camera_distances`` [B], before perturbation; ``fovy`` [B]
            radians; ``height, width``.
        """
        if self._missed_updates:
            step = self._missed_updates.popleft()
            if step >= 0:
                self.update_step(0, step)
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self.batch_index) % (2**63))
        self.batch_index += 1
        size = self.batch_size

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(*(shape or (size,)), generator=generator) * (high - low) + low

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        elevation = self._sample_elevation(uniform)
        if self.cfg.batch_uniform_azimuth:
            share = (uniform(0, 1) + torch.arange(size)) / size
            azimuth = share * (self.azimuth_range[1] - self.azimuth_range[0]) + self.azimuth_range[0]
        else:
            azimuth = uniform(*self.azimuth_range)
        distances = uniform(*self.camera_distance_range)
        fovy = torch.deg2rad(uniform(*self.fovy_range))

        position = spherical_to_position(elevation, azimuth, distances)
        position = position + uniform(-self.cfg.camera_perturb, self.cfg.camera_perturb, size, 3)
        center = normal(size, 3) * self.cfg.center_perturb
        up = torch.tensor([0.0, 0.0, 1.0]) + normal(size, 3) * self.cfg.up_perturb
        light = self._sample_light(position, uniform, normal)
        cameras = _camera_batch(
            look_at(position, center, up),
            fovy,
            self.directions_unit_focal,
            self.height,
            self.width,
            self.cfg.rays_d_normalize,
        )
        return {
            **cameras,
            "camera_positions": position,
            "light_positions": light,
            "elevation": elevation,
            "azimuth": azimuth,
            "camera_distances": distances,
            "height": self.height,
            "width": self.width,
        }

    def _sample_elevation(self, uniform: Any) -> Tensor:
        """Half of the batches uniform in degrees, half uniform on the sphere."""
        low, high = self.elevation_range
        if float(uniform(0, 1, 1)) < 0.5:
            return uniform(low, high)
        sines = uniform(math.sin(math.radians(low)), math.sin(math.radians(high)))
        return torch.rad2deg(torch.asin(sines.clamp(-1, 1)))

    def _sample_light(self, position: Tensor, uniform: Any, normal: Any) -> Tensor:
        distance = uniform(*self.cfg.light_distance_range)[:, None]
        if self.cfg.light_sample_strategy == "dreamfusion":
            direction = F.normalize(position + normal(len(position), 3) * self.cfg.light_position_perturb, dim=-1)
            return direction * distance
        if self.cfg.light_sample_strategy == "magic3d":
            # within 60 degrees of the camera axis, in the camera's own spherical frame
            z = F.normalize(position, dim=-1)
            x = F.normalize(torch.stack([z[:, 1], -z[:, 0], torch.zeros_like(z[:, 0])], dim=-1), dim=-1)
            y = F.normalize(torch.linalg.cross(z, x, dim=-1), dim=-1)
            azimuth = uniform(-math.pi, math.pi)
            elevation = uniform(math.pi / 6, math.pi / 2)
            local = torch.stack(
                [
                    torch.cos(azimuth) * torch.cos(elevation),
                    torch.sin(azimuth) * torch.cos(elevation),
                    torch.sin(elevation),
                ],
                dim=-1,
            )
            return (local[:, 0:1] * x + local[:, 1:2] * y + local[:, 2:3] * z) * distance
        raise UserError(
            f"data.light_sample_strategy is 'dreamfusion' or 'magic3d', got '{self.cfg.light_sample_strategy}'."
        )


class RandomCameraDataset(Dataset):
    """Evaluation cameras on a circle: ``split`` "val" leaves out the last azimuth, which equals the first;
    "test" keeps it.
    """

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        self.split = split
        if split == "val":
            self.n_views = cfg.n_val_views
            azimuth = torch.linspace(0, 360.0, self.n_views + 1)[: self.n_views]
        else:
            self.n_views = cfg.n_test_views
            azimuth = torch.linspace(0, 360.0, self.n_views)
        elevation = torch.full_like(azimuth, cfg.eval_elevation_deg)
        distances = torch.full_like(azimuth, cfg.eval_camera_distance)
        position = spherical_to_position(elevation, azimuth, distances)
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(position)
        fovy = torch.deg2rad(torch.full_like(azimuth, cfg.eval_fovy_deg))
        self._directions = get_ray_directions(H=cfg.eval_height, W=cfg.eval_width, focal=1.0)
        self._c2w = look_at(position, torch.zeros_like(position), up)
        self._views = {
            "camera_positions": position,
            "light_positions": position,
            "elevation": elevation,
            "azimuth": azimuth,
            "camera_distances": distances,
        }
        self._fovy = fovy

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        one = slice(index, index + 1)
        cameras = _camera_batch(
            self._c2w[one],
            self._fovy[one],
            self._directions,
            self.cfg.eval_height,
            self.cfg.eval_width,
            self.cfg.rays_d_normalize,
        )
        return {"index": index} | {k: v[0] for k, v in cameras.items()} | {k: v[index] for k, v in self._views.items()}

    def collate(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        return {**default_collate(batch), "height": self.cfg.eval_height, "width": self.cfg.eval_width}


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    """Lightning data module over the two datasets; ``eval_batch_size`` other than 1 is not used, as upstream."""

    cfg: RandomCameraDataModuleConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def general_loader(self, dataset: Any, batch_size: int | None, collate_fn: Any = None) -> DataLoader:
        # one process: the schedules change the dataset object while training
        return DataLoader(dataset, num_workers=0, batch_size=batch_size, collate_fn=collate_fn)

    def train_dataloader(self) -> DataLoader:
        if self.trainer is not None:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
            if done > 0:
                self.train_dataset.resume_at(done)
        return self.general_loader(self.train_dataset, batch_size=None, collate_fn=self.train_dataset.collate)

    def val_dataloader(self) -> DataLoader:
        return self.general_loader(self.val_dataset, batch_size=1, collate_fn=self.val_dataset.collate)

    def test_dataloader(self) -> DataLoader:
        return self.general_loader(self.test_dataset, batch_size=1, collate_fn=self.test_dataset.collate)

    def predict_dataloader(self) -> DataLoader:
        return self.general_loader(self.test_dataset, batch_size=1, collate_fn=self.test_dataset.collate)
