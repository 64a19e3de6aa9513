"""``image-seq-datamodule``: one clip of one object, and cameras around it in space and time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from logging import getLogger
from typing import Annotated, Any, Literal, Optional

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Interval, Le, MinLen
from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from threestudio import info, register
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured

from ..cameras.sphere import ELEVATION_LAWS, fixed_cameras
from ..errors import UserError
from ..values import Count, Number, PerStage, Pixels, Positive, Share, Text
from .clip import Clip, load_clip
from .eval_views import TEST_SPLITS, ViewTimeSample, views_for_test, views_for_validation
from .view_time import RandomViews, Stage, draw_frames, frame_times, stage_at, stages, step_generator

Elevation = Annotated[float, Interval(ge=-90, le=90)]
FieldOfView = Annotated[float, Interval(gt=0, lt=180)]


@dataclass
class RandomCameraConfig:
    """Cameras of SDS steps. What is null is taken from the data section. Ranges are [low, high], angles in degrees."""

    height: Annotated[Any, PerStage | None] = None
    """Of the pictures, in pixels."""
    width: Annotated[Any, PerStage | None] = None
    batch_size: Annotated[Any, PerStage | None] = None
    resolution_milestones: Annotated[Any, PerStage | None] = None
    elevation_range: Annotated[Any, tuple[Elevation, Elevation]] = (-10.0, 60.0)
    azimuth_range: Annotated[Any, tuple[Number, Number]] = (-180.0, 180.0)
    azimuth_interval_range: Annotated[Any, tuple[Number, Number]] = (5.0, 15.0)
    """Step between the neighbours of an arc."""
    camera_distance_range: Annotated[Any, tuple[Positive, Positive] | None] = None
    """In world units."""
    fovy_range: Annotated[Any, tuple[FieldOfView, FieldOfView] | None] = None
    elevation_law: Annotated[str, Literal[ELEVATION_LAWS]] = "mixed"
    """How elevations spread over their range; see ``sample_elevations``."""
    batch_uniform_azimuth: bool = False
    """Spread the azimuths of independent views evenly over their range."""
    camera_perturb: Annotated[float, Interval(ge=0)] = 0.0
    """Largest random offset of a camera's position, of each coordinate."""
    center_perturb: Annotated[float, Interval(ge=0)] = 0.0
    """Standard deviation of the point that it looks at."""
    up_perturb: Annotated[float, Interval(ge=0)] = 0.0
    """Standard deviation of its upward direction."""


@dataclass
class ImageSequenceConfig:
    """The ``data`` section. Sizes and batch sizes are one number, or a list with one number a stage."""

    # The clip ---------------------------------------------------------------------------------------------------------
    image_seq_path: Text = ""
    """A folder of frames, or a video file."""
    mask_path: Optional[Text] = None  # noqa: UP045
    """A folder or video of masks, for clips without alpha; null: the frames' own alpha, or ``key_color``."""
    loop: bool = False
    """Whether the end of the clip leads back to its start."""
    frame_stride: Count = 1
    """Take every so many-th frame."""
    num_frames: Optional[Annotated[int, Interval(ge=2)]] = None  # noqa: UP045
    """Take so many frames, evenly spaced; null: all."""
    max_frames: Annotated[int, Interval(ge=2)] = 128
    """Longer clips are thinned out to at most so many frames."""
    max_size: Pixels = 1024
    """Frames with a longer side above this are made smaller."""
    key_color: Text = "auto"
    """Colour of the background of clips without alpha and masks, as ``#rrggbb``; ``auto``: found at the border."""
    recenter: bool = False
    """Crop and enlarge all frames alike, so that the object fills the picture."""
    recenter_fill: Annotated[float, Interval(ge=0.05, le=1)] = 0.7
    """Share of the picture's side that it then takes."""
    # The camera of the clip, in degrees and world units ---------------------------------------------------------------
    default_elevation_deg: Elevation = 0.0
    default_azimuth_deg: Number = 0.0
    default_camera_distance: Positive = 2.0
    default_fovy_deg: FieldOfView = 49.1
    """Vertical field of view."""
    # Training ---------------------------------------------------------------------------------------------------------
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0
    """Of the cameras and times of all steps."""
    height: PerStage = 64
    """Of the pictures of reference steps and, unless ``random_camera`` has its own, of novel views; in pixels."""
    width: Annotated[Any, PerStage | None] = None
    """null: square."""
    batch_size: PerStage = 4
    """Novel views of a step."""
    ref_batch_size: PerStage = 1
    """Input frames of a step."""
    resolution_milestones: PerStage = ()
    """Steps at which the next stage begins: one fewer than there are stages."""
    mode_section: Annotated[Any, tuple[Share, Share, Share, Share]] = (0.5, 0.625, 0.75, 1.0)
    """Cumulative shares of independent views, arcs in azimuth, runs in time, and repeats of one view."""
    time_interval: Annotated[float, Gt(0), Le(1)] = 1 / 16
    """Step of a run in time, as a share of the clip."""
    rays_noise_scale: Annotated[float, Interval(ge=0)] = 2e-3
    """Standard deviation of the noise on the rays of reference steps."""
    random_camera: Annotated[dict, RandomCameraConfig] = field(default_factory=dict)
    """Cameras of novel views."""
    # Validation and test ----------------------------------------------------------------------------------------------
    eval_height: Pixels = 256
    eval_width: Pixels = 256
    eval_batch_size: Count = 1
    n_val_views: Count = 4
    """Azimuths of validation, evenly spaced."""
    n_val_times: Count = 3
    """Times at which each of them is seen."""
    test_splits: Annotated[Any, list[Literal[TEST_SPLITS]]] = TEST_SPLITS
    """``orbit``: a camera that circles the moving object; ``fixed``, ``eval``: views at ``fixed_azimuths`` and
    ``eval_azimuths`` of every input frame."""
    n_test_views: Count = 120
    """Pictures of the orbit."""
    orbit_elevation_deg: Elevation = 15.0
    orbit_loops: Count = 1
    """Times that the clip is played while the camera goes round once."""
    fixed_azimuths: Annotated[Any, list[Number], MinLen(1)] = (0.0, 90.0, 180.0, 270.0)
    eval_azimuths: Annotated[Any, list[Number], MinLen(1)] = (-75.0, 15.0, 105.0, 195.0)


class ClipFrames:
    """The clip as tensors at any size, and its times.

    Attributes:
        timestamps: ``[N]`` in [0, 1].
        frame_names: file names (or numbers) of the frames.
        loop: whether the end of the clip runs into its start.
    """

    def __init__(self, clip: Clip, loop: bool) -> None:
        self.loop = loop
        self.frame_names = list(clip.names)
        self.num_frames = len(clip)
        self.timestamps = frame_times(len(clip), loop)
        self._clip = clip
        self._cache: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def frames(self, size: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """All frames on white ``[N, size, size, 3]`` and their soft alpha ``[N, size, size, 1]``, float in [0, 1].

        Kept after the first call, for each size and device.
        """
        key = (int(size), torch.device(device))
        if key not in self._cache:
            host = (key[0], torch.device("cpu"))
            if host not in self._cache:
                self._cache[host] = tuple(torch.from_numpy(part).contiguous() for part in self._clip.resized(key[0]))
            self._cache[key] = tuple(part.to(device) for part in self._cache[host])
        return self._cache[key]


class _ClipDataset:
    """Gives a dataset the clip: ``frames(size)``, ``timestamps``, ``num_frames``, ``frame_names``, ``loop``."""

    def __init__(self, cfg: Any, clip: ClipFrames) -> None:
        self.cfg = cfg
        self.clip_frames = clip
        self.timestamps = clip.timestamps
        self.num_frames = clip.num_frames
        self.frame_names = clip.frame_names
        self.loop = clip.loop
        self.frames = clip.frames


class ImageSequenceTrainDataset(_ClipDataset, IterableDataset, Updateable):
    """Yields empty batches for ever; the step asks :meth:`view_time_batch` for what it needs.

    Lightning fetches batches ahead, so a batch made by a loader cannot know its step.
    """

    def __init__(self, cfg: Any, clip: ClipFrames) -> None:
        super().__init__(cfg, clip)
        n = clip.num_frames
        side = cfg.height if cfg.width is None else cfg.width
        self.reference_stages, self.milestones = stages(
            cfg.height,
            side,
            cfg.ref_batch_size,
            cfg.resolution_milestones,
            ["data.height", "data.width", "data.ref_batch_size", "data.resolution_milestones"],
        )
        for stage in self.reference_stages:
            if stage.height != stage.width:
                raise UserError(
                    f"data.width is {stage.width} where data.height is {stage.height}: frames are padded to squares, "
                    "so both must be equal (or leave data.width out). data.random_camera.width is free."
                )
        own = parse_structured(RandomCameraConfig, cfg.random_camera)
        camera = _with_inherited(own, cfg)
        names = ("height", "width", "batch_size", "resolution_milestones")
        self.random_stages, self.random_milestones = stages(
            *(camera[name] for name in names),
            [f"data.{name}" if own[name] is None else f"data.random_camera.{name}" for name in names],
        )
        self.random_views = RandomViews(camera, cfg.mode_section, cfg.time_interval, n, clip.loop)

    def __iter__(self) -> Iterator[dict]:
        while True:
            yield {}

    def collate(self, batch: Any) -> dict:
        """Everything is made in the step."""
        return {}

    def reference_stage(self, step: int) -> Stage:
        """Size and batch size of a reference step."""
        return stage_at(self.reference_stages, self.milestones, step)

    def random_stage(self, step: int) -> Stage:
        """Size and batch size of an SDS step."""
        return stage_at(self.random_stages, self.random_milestones, step)

    def view_time_batch(self, global_step: int, kind: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The batch of a step: a pure function of (``data.seed``, ``global_step``, ``kind``).

        Args:
            kind: ``reference`` (the camera of the clip, random frames) or ``sds`` (random cameras).

        Returns:
            threestudio's camera keys (see ``Cameras.batch``), ``timestamps [B, 1]``, ``frame_indices [B]`` (long; the
            conditioning frame of each sample), ``relation``; for ``reference`` also ``rgb [B, H, W, 3]`` on white and
            ``mask [B, H, W, 1]``, the soft alpha.
        """
        if kind not in ("reference", "sds"):
            raise ValueError(f"kind is '{kind}'; allowed: reference, sds")
        generator = step_generator(self.cfg.seed, global_step, kind)
        if kind == "reference":
            return self._reference_batch(self.reference_stage(global_step), generator, device)
        stage = self.random_stage(global_step)
        drawn = self.random_views.draw(stage.batch_size, generator)
        batch = drawn.cameras.batch(stage.height, stage.width, device)
        batch["timestamps"] = drawn.timestamps[:, None].to(device)
        batch["frame_indices"] = drawn.frames.to(device)
        batch["relation"] = drawn.relation
        return batch

    def _reference_batch(self, stage: Stage, generator: torch.Generator, device: torch.device | str) -> dict[str, Any]:
        cfg, b = self.cfg, stage.batch_size
        frames = draw_frames(self.num_frames, b, generator)
        noise = cfg.rays_noise_scale * torch.randn(2, b, 3, generator=generator)
        cameras = fixed_cameras(
            cfg.default_elevation_deg, [cfg.default_azimuth_deg] * b, cfg.default_camera_distance, cfg.default_fovy_deg
        )
        batch = cameras.batch(stage.height, stage.width, device, noise[0], noise[1])
        rgb, alpha = self.frames(stage.height, device)
        index = frames.to(device)
        batch.update(
            rgb=rgb[index],
            mask=alpha[index],
            timestamps=self.timestamps[frames][:, None].to(device),
            frame_indices=index,
            relation="reference",
        )
        return batch


class ViewTimeDataset(_ClipDataset, Dataset, Updateable):
    """Fixed cameras and times. An item is a ready batch of up to ``eval_batch_size`` samples of one split.

    Keys: those of ``Cameras.batch``, ``timestamps [B, 1]``, ``split_name`` (list of B equal strings),
    ``frame_index [B]`` (number of the picture within its split; in ``fixed-*``, ``eval/*`` and ``val-*`` the number of
    the input frame), ``index [B]`` (number within the whole set).
    """

    def __init__(self, cfg: Any, clip: ClipFrames, samples: list[ViewTimeSample]) -> None:
        super().__init__(cfg, clip)
        self.samples = samples
        self.batches: list[list[int]] = []
        for index, sample in enumerate(samples):
            last = self.batches[-1] if self.batches else None
            if last is not None and samples[last[0]].split == sample.split and len(last) < cfg.eval_batch_size:
                last.append(index)
            else:
                self.batches.append([index])

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> dict[str, Any]:
        cfg, index = self.cfg, self.batches[item]
        chosen = [self.samples[i] for i in index]
        cameras = fixed_cameras(0.0, [s.azimuth for s in chosen], cfg.default_camera_distance, cfg.default_fovy_deg)
        cameras.elevation = torch.tensor([s.elevation for s in chosen], dtype=torch.float32)
        batch = cameras.batch(cfg.eval_height, cfg.eval_width)
        batch.update(
            timestamps=torch.tensor([[s.time] for s in chosen], dtype=torch.float32),
            split_name=[s.split for s in chosen],
            frame_index=torch.tensor([s.frame for s in chosen]),
            index=torch.tensor(index),
        )
        return batch


def _with_inherited(camera: Any, cfg: Any) -> Any:
    """The ``random_camera`` section with what it leaves out taken from the data section."""
    size = cfg.height if camera.height is None else camera.height
    inherited = {
        "height": size,
        "width": (cfg.width if cfg.width is not None and camera.height is None else size),
        "batch_size": cfg.batch_size,
        "resolution_milestones": cfg.resolution_milestones,
        "camera_distance_range": [cfg.default_camera_distance] * 2,
        "fovy_range": [cfg.default_fovy_deg] * 2,
    }
    missing = {key: value for key, value in inherited.items() if camera[key] is None}
    return OmegaConf.merge(camera, missing)


@register("image-seq-datamodule")
class ImageSequenceDataModule(pl.LightningDataModule):
    """One clip, its camera, and the cameras of training, validation and test.

    The clip is read and checked when the module is made, before a model is built or weights are loaded.

    Raises:
        UserError: the clip or a configuration value cannot be used.
    """

    Config = ImageSequenceConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, {} if cfg is None else cfg)
        c = self.cfg
        clip = load_clip(
            c.image_seq_path,
            c.mask_path,
            frame_stride=c.frame_stride,
            num_frames=c.num_frames,
            max_frames=c.max_frames,
            max_size=c.max_size,
            loop=c.loop,
            key_color=c.key_color,
            recenter=c.recenter,
            recenter_fill=c.recenter_fill,
        )
        for note in clip.notes:
            info(note)
        for warning in clip.warnings:
            _warn(warning)
        self.clip_frames = ClipFrames(clip, c.loop)
        self.train_dataset = ImageSequenceTrainDataset(c, self.clip_frames)
        self.val_dataset = ViewTimeDataset(c, self.clip_frames, views_for_validation(c, self.clip_frames.timestamps))
        self.test_dataset = ViewTimeDataset(c, self.clip_frames, views_for_test(c, self.clip_frames.timestamps))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=None, num_workers=0, collate_fn=self.train_dataset.collate)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_dataset, batch_size=None, num_workers=0)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_dataset, batch_size=None, num_workers=0)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()


@rank_zero_only
def _warn(text: str) -> None:
    getLogger("pytorch_lightning").warning(text)
