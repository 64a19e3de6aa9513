"""Training clips for video priors: a moving asset seen by a fixed camera under a fixed light.

Everything is drawn and rendered on the meshes' device, from one matrix of uniform numbers a batch; nothing waits for
the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.typing import Float, Tensor

from ...errors import UserError
from ..assets.captions import Captions
from ..rendering.looks import between, repeated, sun_azimuths, varied_colours, varied_lights
from ..rendering.rasterise import DISTANCE, Shot, on_white, render
from ..rendering.scenes import PosedMeshes, is_validation

DRAWS = 33  # uniform numbers a clip uses
POSE_RATE = 24.0  # poses a second: the frame rate of a clip that shows every pose
SEAM = 2.0  # a clip loops if its last step, to the first pose again, is at most so many times its largest other one


@dataclass
class ClipBatch:
    """B clips of T frames. Angles in degrees."""

    video: Float[Tensor, "B T 3 S S"]  # in [0, 1], on white
    alpha: Float[Tensor, "B T 1 S S"]
    caption: Tensor  # [B] long, a sentence of ``ClipSampler.captions``
    fps: Tensor  # [B]: 24, 12 or 8 for clips that show every pose, every second or every third
    motion: Tensor  # [B]: mean absolute difference of neighbouring frames, times 255
    elevation: Tensor  # [B]
    azimuth: Tensor  # [B]
    distance: Tensor  # [B]
    pose: Tensor  # [B, T] long

    def asdict(self) -> dict[str, Tensor]:
        return dict(vars(self))


@dataclass
class ClipTable:
    """The clips of some assets. All tensors long, one entry a clip but for the last two, one entry an asset."""

    first: Tensor  # first pose
    count: Tensor  # how many poses
    loops: Tensor  # bool: the first pose follows the last; else the clip stays at its last pose
    asset_clip: Tensor  # first clip of each asset
    asset_clips: Tensor  # how many clips each asset has

    @classmethod
    def of(cls, meshes: PosedMeshes, least: int, validation: bool | None) -> ClipTable:
        """Clips of at least ``least`` poses, of the training or the validation split (None: both)."""
        first, count, loops, asset_clip, asset_clips, start = [], [], [], [], [], 0
        for name, poses in zip(meshes.names, meshes.pose_counts, strict=True):
            numbers = meshes.pose_clip[start : start + poses]
            runs = [(start + numbers.index(clip), numbers.count(clip)) for clip in dict.fromkeys(numbers)]
            runs = [run for run in runs if run[1] >= least]
            start += poses
            if runs and (validation is None or is_validation(name) == validation):
                asset_clip.append(len(first))
                asset_clips.append(len(runs))
                first += [run[0] for run in runs]
                count += [run[1] for run in runs]
                loops += [_loops(meshes, *run) for run in runs]

        def tensor(values: list) -> Tensor:
            return torch.tensor(values, device=meshes.device)

        return cls(*(tensor(v).long() for v in (first, count)), tensor(loops).bool(),
                   *(tensor(v).long() for v in (asset_clip, asset_clips)))  # fmt: skip

    def __len__(self) -> int:
        return len(self.first)


def closes(poses: Float[Tensor, "P V 3"]) -> bool:
    """Whether a clip's first pose follows its last as any pose follows the one before."""
    steps = (poses - poses.roll(-1, 0)).norm(dim=-1).mean(1)
    return bool(steps[-1] <= SEAM * steps[:-1].max() + 1e-4)


def _loops(meshes: PosedMeshes, first: int, count: int) -> bool:
    asset, start = int(meshes.pose_asset[first]), int(meshes.pose_vertex[first])
    size = int(meshes.asset_vertex[asset + 1] - meshes.asset_vertex[asset])
    return closes(meshes.vertices[start : start + count * size].view(count, size, 3).float())


class ClipSampler:
    """Draws clips without end: uniform over assets, then over an asset's clips, its start and its speed.

    A clip steps through its poses one, two or three at a time and goes round where its ends meet (a walk). One that
    does not close (a fall, a door that opens) never jumps back: it starts early, and stays at its last pose.
    Camera, light, mirroring and colours are the same in all frames.

    Args:
        meshes: of a pack with whole clips (``assets --clip-frames 24``).
        frames: T.
        resolution: S.
        seed: of the generator, which lives on the meshes' device; ``generator.get_state()`` resumes it.
        validation: draw from the held-out assets instead (None: from all).
        still_share: share of assets without clips, whose video stands still.
        captions: sentences of these meshes; ``Captions.from_meshes(meshes)`` by default.
        backend: of the rasteriser.

    Raises:
        UserError: the meshes have no clip with enough poses.
    """

    @dataclass
    class Config:
        level_share: float = 0.6  # cameras at elevation 0
        near_distance_share: float = 0.75  # cameras at distance 2
        canonical_scale_share: float = 0.6  # objects at the benchmark's scale, centred
        standard_light_share: float = 0.75  # sun where the benchmark has it, seen from the camera
        flip_share: float = 0.5
        permute_share: float = 0.0  # colour channels exchanged: captions would name wrong colours
        tint_share: float = 0.5
        action_share: float = 1.0  # captions that say what happens; the rest only name the asset
        strides: tuple[int, ...] = (1, 2, 3)  # steps through the poses
        least_poses: int = 12  # clips with fewer are left out

    def __init__(
        self,
        meshes: PosedMeshes,
        frames: int = 16,
        resolution: int = 64,
        seed: int = 0,
        validation: bool | None = False,
        still_share: float = 0.0,
        captions: Captions | None = None,
        backend: str = "auto",
        cfg: Config | None = None,
    ) -> None:
        self.cfg = self.Config() if cfg is None else cfg
        self.meshes, self.frames, self.resolution, self.backend = meshes, frames, resolution, backend
        self.captions = Captions.from_meshes(meshes) if captions is None else captions
        self.generator = torch.Generator(device=meshes.device).manual_seed(seed)
        self.clips = ClipTable.of(meshes, self.cfg.least_poses, validation)
        if not len(self.clips) and validation is not None:  # a tiny pack's split may be empty
            self.clips = ClipTable.of(meshes, self.cfg.least_poses, None)
        if not len(self.clips):
            raise UserError(
                f"No clip has {self.cfg.least_poses} poses. Pack the assets with whole clips: "
                "python -m threestudio_4d.tiny_priors.assets.pack FOLDER --out PACK --clip-frames 24"
            )
        self.still_share = still_share
        self.stills = meshes.table(False, validation)
        self.strides = torch.tensor(self.cfg.strides, device=meshes.device)

    def __call__(self, count: int) -> ClipBatch:
        """Draws and renders ``count`` clips."""
        u = torch.rand(DRAWS, count, generator=self.generator, device=self.meshes.device)
        return self.from_uniform(u)

    def poses(self, u: Float[Tensor, "6 B"]) -> tuple[Tensor, Tensor]:
        """Poses [B, T] and strides [B] from uniform numbers: asset, clip, stride, start, still or not, which still."""
        table = self.clips
        asset = _pick(u[0], len(table.asset_clip))
        clip = table.asset_clip[asset] + _pick(u[1], table.asset_clips[asset])
        stride = self.strides[_pick(u[2], len(self.strides))]
        count, loops = table.count[clip], table.loops[clip]
        enough = -(-count // self.frames)  # the stride that shows all of an open clip: beyond, it would only lie still
        stride = torch.where(loops, stride, torch.minimum(stride, enough))
        latest = (count - (self.frames - 1) * stride).clamp_min(1)  # so that an open clip is seen to its end
        start = _pick(u[3], torch.where(loops, count, latest))
        step = start[:, None] + stride[:, None] * torch.arange(self.frames, device=u.device)
        step = torch.where(loops[:, None], step % count[:, None], torch.minimum(step, count[:, None] - 1))
        pose = table.first[clip][:, None] + step
        if self.still_share and len(self.stills.first):
            still = self.stills.first[_pick(u[5], len(self.stills.first))]
            pose = torch.where((u[4] < self.still_share)[:, None], still[:, None], pose)
        return pose, stride

    def from_uniform(self, u: Float[Tensor, "33 B"]) -> ClipBatch:
        """The clips that uniform numbers stand for."""
        cfg, frames, zero = self.cfg, self.frames, torch.zeros_like(u[0])
        pose, stride = self.poses(u[0:6])
        elevation = torch.where(u[6] < cfg.level_share, zero, between(u[7], -10, 45))
        distance = torch.where(u[8] < cfg.near_distance_share, zero + DISTANCE, between(u[9], 1.7, 2.2))
        azimuth = between(u[10], -180, 180)
        sign = torch.where(u[11] < cfg.flip_share, -1.0, 1.0)
        canonical = u[12] < cfg.canonical_scale_share
        scale = torch.where(canonical, zero + 1, between(u[13], 0.7, 1.12))
        offset = torch.where(canonical, zero, between(u[14:17], -0.06, 0.06)).T
        # A mirrored image shows the mirrored world: camera and sun stand at the azimuths of opposite sign.
        sun = azimuth + sun_azimuths(u[17:20], cfg.standard_light_share)
        lights = varied_lights(u[20:26], sign * sun)
        colours = varied_colours(u[26:31], cfg.permute_share, cfg.tint_share)

        def every(value: Tensor) -> Tensor:
            return value.repeat_interleave(frames, 0)

        shot = Shot(
            pose.flatten(), every(elevation), every(sign * azimuth), every(distance), repeated(lights, frames),
            every(scale), every(offset), every(colours), every(sign < 0),
        )  # fmt: skip
        rgba = render(self.meshes, shot, self.resolution, backend=self.backend)
        video = on_white(rgba).view(len(zero), frames, 3, self.resolution, self.resolution)
        alpha = rgba[..., 3].reshape(len(zero), frames, 1, self.resolution, self.resolution)
        caption = self.captions.draw(pose[:, 0], self.meshes.pose_asset, u[31:33], cfg.action_share)
        motion = 255 * video.diff(dim=1).abs().mean((1, 2, 3, 4)) if frames > 1 else zero
        return ClipBatch(video, alpha, caption, POSE_RATE / stride, motion, elevation, azimuth, distance, pose)


def _pick(u: Tensor, number: int | Tensor) -> Tensor:
    """[B] long, uniform below ``number``, from uniform numbers [B]."""
    chosen = (u * number).long()
    return torch.minimum(chosen, number - 1) if isinstance(number, Tensor) else chosen.clamp_max(number - 1)
