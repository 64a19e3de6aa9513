"""Real clips and rendered ground truth; skipped where the optional data is absent."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_makers import over, write_video

from threestudio_4d.cameras.sphere import fixed_cameras
from threestudio_4d.data.clip import load_clip

VIEWS = {"ref": 0.0, "az-75": -75.0, "az15": 15.0, "az105": 105.0, "az195": 195.0}


def hull_overlaps(folder: Path, frame: int, cells: int = 160) -> dict[str, float]:
    """Carve a visual hull out of a grid with all views, shoot our rays through it, and compare silhouettes (IoU)."""
    cameras = fixed_cameras(0.0, list(VIEWS.values()), 2.0, 49.1)
    size = 128
    batch = cameras.batch(size, size)
    masks = [load_clip(str(folder / view), loop=True).resized(size)[1][frame, ..., 0] for view in VIEWS]
    masks = torch.from_numpy(np.stack(masks))
    axis = (torch.arange(cells) + 0.5) / cells * 1.6 - 0.8
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    clip = torch.cat([points, torch.ones(len(points), 1)], -1) @ batch["mvp_mtx"].transpose(1, 2)
    pixels = (clip[..., :2] / clip[..., 3:])[:, None]
    seen = torch.nn.functional.grid_sample(masks[:, None], pixels, align_corners=False)
    hull = (seen[:, 0, 0] > 0.4).all(0).reshape(1, 1, cells, cells, cells).float()
    depth = torch.linspace(1.2, 2.8, 160)
    overlaps = {}
    for k, view in enumerate(VIEWS):
        along = batch["rays_o"][k, ..., None, :] + depth[:, None] * batch["rays_d"][k, ..., None, :]
        hit = torch.nn.functional.grid_sample(hull, along[None].flip(-1) / 0.8, align_corners=False)
        silhouette, truth = hit.amax((0, 1, 4)) > 0.5, masks[k] > 0.5
        overlaps[view] = ((silhouette & truth).sum() / (silhouette | truth).sum()).item()
    return overlaps


@pytest.mark.parametrize("name", ["deer", "leela"])
def test_the_camera_convention_is_that_of_the_ground_truth(shared_data: Path, name: str):
    overlaps = hull_overlaps(shared_data / "bench4d" / name, frame=5)
    assert min(overlaps.values()) > 0.85, overlaps


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0)])
def test_a_video_of_a_real_clip(shared_data: Path, tmp_path: Path, color):
    clip = load_clip(str(shared_data / "real" / "blooming_rose"))
    assert clip.frames.shape == (32, 512, 512, 4) and not clip.warnings
    path = write_video(tmp_path / "rose.mp4", [over(f, color) for f in clip.frames], "libx264", "yuv420p")
    keyed = load_clip(str(path))
    expected, alpha = clip.resized(128)
    rgb, keyed_alpha = keyed.resized(128)
    solid, keyed_solid = alpha > 0.5, keyed_alpha > 0.5
    assert (solid & keyed_solid).sum() / (solid | keyed_solid).sum() > 0.95
    assert -10 * np.log10(((rgb - expected) ** 2).mean()) > 26
