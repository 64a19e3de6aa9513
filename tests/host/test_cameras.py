import math

import pytest
import torch

from threestudio.data.uncond import RandomCameraDataModule, RandomCameraDataset, RandomCameraIterableDataset, look_at
from threestudio.data.uncond import RandomCameraDataModuleConfig as Config
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_cam_info_gaussian, get_projection_matrix, get_ray_directions, get_rays


def dataset(**cfg):
    torch.manual_seed(0)
    return RandomCameraIterableDataset(parse_structured(Config, cfg))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("light", ["dreamfusion", "magic3d"])
def test_training_batch(batch_size, light):
    source = dataset(batch_size=batch_size, height=6, width=8, light_sample_strategy=light)
    for _ in range(4):
        batch = source.collate({})
        rotation = batch["c2w"][:, :3, :3]
        assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(batch_size, 3, 3), atol=1e-5)
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(batch_size), atol=1e-5)
        assert batch["rays_o"].shape == batch["rays_d"].shape == (batch_size, 6, 8, 3)
        assert torch.allclose(batch["rays_d"].norm(dim=-1), torch.ones(batch_size, 6, 8), atol=1e-5)
        assert batch["mvp_mtx"].shape == batch["proj_mtx"].shape == (batch_size, 4, 4)
        assert torch.equal(batch["c2w"][:, :3, 3], batch["camera_positions"])
        assert batch["light_positions"].shape == (batch_size, 3) and (batch["height"], batch["width"]) == (6, 8)
        for key in ("elevation", "azimuth", "camera_distances", "fovy"):
            assert batch[key].shape == (batch_size,)
        assert batch["elevation"].min() >= -10 and batch["elevation"].max() <= 90
        assert math.radians(40) <= batch["fovy"].min() and batch["fovy"].max() <= math.radians(70)


def test_position_follows_the_angles():
    source = dataset(batch_size=64, camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0)
    batch = source.collate({})
    e, a, r = torch.deg2rad(batch["elevation"]), torch.deg2rad(batch["azimuth"]), batch["camera_distances"]
    expected = torch.stack([r * e.cos() * a.cos(), r * e.cos() * a.sin(), r * e.sin()], dim=-1)
    assert torch.allclose(batch["camera_positions"], expected, atol=1e-5)
    # looks at the origin along its own -z
    assert torch.allclose(batch["c2w"][:, :3, 2], expected / r[:, None], atol=1e-5)
    # stratified over the batch
    assert torch.equal(torch.floor((batch["azimuth"] + 180) / 360 * 64).long().clamp(0, 63), torch.arange(64))


def test_projection_agrees_with_the_rays():
    batch = RandomCameraDataset(parse_structured(Config, {"eval_height": 10, "eval_width": 14}), "test")[7]
    assert batch["proj_mtx"][1, 1] < 0
    row, column = 2, 11
    point = batch["rays_o"][row, column] + 1.3 * batch["rays_d"][row, column]
    clip = batch["mvp_mtx"] @ torch.cat([point, torch.ones(1)])
    ndc = clip[:3] / clip[3]
    assert ndc[0] == pytest.approx((column + 0.5) / 14 * 2 - 1, abs=1e-4)
    assert ndc[1] == pytest.approx((row + 0.5) / 10 * 2 - 1, abs=1e-4)  # row 0, at the top, is at -1
    assert -1 < ndc[2] < 1
    up = batch["mvp_mtx"] @ torch.tensor([0.0, 0.0, 0.3, 1.0])
    assert up[1] / up[3] < 0


def test_evaluation_views():
    cfg = parse_structured(Config, {"n_val_views": 3, "n_test_views": 5, "eval_height": 4, "eval_width": 4})
    val, test = RandomCameraDataset(cfg, "val"), RandomCameraDataset(cfg, "test")
    assert [float(val[i]["azimuth"]) for i in range(3)] == [0.0, 120.0, 240.0]
    assert [float(test[i]["azimuth"]) for i in range(5)] == [0.0, 90.0, 180.0, 270.0, 360.0]
    item = val.collate([val[1]])
    assert item["index"].tolist() == [1] and item["rays_d"].shape == (1, 4, 4, 3) and item["height"] == 4
    assert torch.equal(item["light_positions"], item["camera_positions"])
    assert item["fovy"].tolist() == pytest.approx([math.radians(70)])
    rotation = torch.stack([val[i]["c2w"][:3, :3] for i in range(3)])
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5)


def test_same_seed_same_cameras_and_each_batch_differs():
    first, second = dataset(batch_size=2), dataset(batch_size=2)
    a, b = first.collate({}), first.collate({})
    assert torch.equal(a["c2w"], second.collate({})["c2w"]) and not torch.equal(a["c2w"], b["c2w"])
    second.resume_at(1)
    assert torch.equal(b["c2w"], second.collate({})["c2w"])


def test_stages_of_resolution():
    source = dataset(height=[4, 8, 16], width=[4, 8, 16], batch_size=[3, 2, 1], resolution_milestones=[10, 20])
    for step, size, batch in ((0, 4, 3), (9, 4, 3), (10, 8, 2), (19, 8, 2), (20, 16, 1), (500, 16, 1)):
        source.update_step(0, step)
        assert source.collate({})["rays_d"].shape[:2] == (batch, size)
    with pytest.raises(UserError, match="resolution_milestones needs 1 steps"):
        dataset(height=[4, 8])
    with pytest.raises(UserError, match="'sun': it must be one of dreamfusion, magic3d"):
        dataset(light_sample_strategy="sun").collate({})


def test_progressive_views():
    source = dataset(progressive_until=9)
    source.update_step(0, 0)
    assert source.azimuth_range == (0.0, 0.0) and source.elevation_range == (15.0, 15.0)
    source.update_step(0, 5)
    assert source.azimuth_range == (-90.0, 90.0)
    source.update_step(0, 99)
    assert source.azimuth_range == (-180.0, 180.0) and source.elevation_range == (-10.0, 90.0)
    source = dataset()
    source.update_step(0, 0)
    assert source.azimuth_range == (-180.0, 180.0)


def test_unnormalised_rays():
    batch = dataset(rays_d_normalize=False, height=4, width=4).collate({})
    depth = (batch["rays_d"] * -batch["c2w"][:, None, None, :3, 2]).sum(-1)
    assert torch.allclose(depth, torch.ones_like(depth), atol=1e-5)


def test_data_module_has_a_loader_for_every_stage():
    module = RandomCameraDataModule({"height": 2, "width": 2, "eval_height": 2, "eval_width": 2, "n_test_views": 2})
    module.setup()
    assert next(iter(module.train_dataloader()))["rays_d"].shape == (1, 2, 2, 3)
    assert len(list(module.val_dataloader())) == 1 and len(list(module.predict_dataloader())) == 2


def test_rays_of_all_shapes():
    directions = get_ray_directions(3, 5, 2.0)
    assert directions.shape == (3, 5, 3)
    assert directions[0, 0].tolist() == [(0.5 - 2.5) / 2, -(0.5 - 1.5) / 2, -1.0]
    c2w = look_at(torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]), torch.zeros(2, 3), torch.tensor([[0.0, 0, 1]] * 2))
    o, d = get_rays(directions, c2w, keepdim=True)
    assert o.shape == d.shape == (2, 3, 5, 3)
    for i in range(2):
        one_o, one_d = get_rays(directions, c2w[i])
        assert torch.allclose(one_d.view(3, 5, 3), d[i]) and torch.allclose(one_o.view(3, 5, 3), o[i])
        flat_o, flat_d = get_rays(directions.view(-1, 3), c2w[i].expand(15, 4, 4), keepdim=True)
        assert torch.allclose(flat_d.view(3, 5, 3), d[i])
    _, d2 = get_rays(directions.expand(2, 3, 5, 3), c2w, keepdim=True)
    assert torch.allclose(d2, d)


def test_gaussian_camera_matches_the_projection():
    c2w = look_at(torch.tensor([[1.0, 0.5, 0.7]]), torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]))[0]
    fov = torch.tensor(0.8)
    view, full, centre = get_cam_info_gaussian(c2w, fov, fov, 0.1, 100.0)
    point = torch.tensor([0.2, -0.1, 0.3, 1.0])
    camera = point @ view
    assert camera[2] > 0 and torch.allclose(centre, c2w[:3, 3])
    gaussian = point @ full
    ours = get_projection_matrix(fov[None], 1.0, 0.1, 100.0)[0] @ torch.linalg.inv(c2w) @ point
    assert torch.allclose(gaussian[:2] / gaussian[3], ours[:2] / ours[3], atol=1e-5)
