"""Upstream's registered names in this host: thin classes over the extension's parts, with upstream's keys."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from tiny_sd import tiny_sd
from tiny_zero123 import tiny_zero123
from torch import nn

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.estimators import ImportanceEstimator, sample_edges
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.utils.config import load_config, parse_structured
from threestudio.utils.custom_modules import load_custom_modules
from threestudio.utils.errors import UserError
from threestudio.utils.misc import set_device
from threestudio_4d.guidance.sd_guidance import StableDiffusionGuidance
from threestudio_4d.guidance.text_prompts import TextPromptProcessor

#: upstream's configs/dreamfusion-sd.yaml, with a small field and small networks
DREAMFUSION = """
name: dreamfusion-sd
tag: "${rmspace:${system.prompt_processor.prompt},_}"
exp_root_dir: ???
seed: 0
data_type: random-camera-datamodule
data:
  batch_size: 1
  width: 16
  height: 16
  eval_height: 16
  eval_width: 16
  n_test_views: 2
  camera_distance_range: [1.5, 2.0]
  fovy_range: [40, 70]
  elevation_range: [-10, 45]
  light_sample_strategy: dreamfusion
  eval_camera_distance: 2.0
  eval_fovy_deg: 70.
system_type: dreamfusion-system
system:
  geometry_type: implicit-volume
  geometry:
    radius: 2.0
    normal_type: analytic
    density_bias: blob_magic3d
    density_activation: softplus
    density_blob_scale: 10.
    density_blob_std: 0.5
    pos_encoding_config:
      otype: ProgressiveBandHashGrid
      n_levels: 4
      n_features_per_level: 2
      log2_hashmap_size: 10
      base_resolution: 4
      per_level_scale: 1.447269237440378
      start_level: 2
      start_step: 2
      update_steps: 1
  material_type: diffuse-with-point-light-material
  material: {ambient_only_steps: 2, albedo_activation: sigmoid}
  background_type: neural-environment-map-background
  background: {color_activation: sigmoid}
  renderer_type: nerf-volume-renderer
  renderer: {radius: "${system.geometry.radius}", num_samples_per_ray: 32}
  prompt_processor_type: stable-diffusion-prompt-processor
  prompt_processor:
    pretrained_model_name_or_path: ???
    prompt: a fox
  guidance_type: stable-diffusion-guidance
  guidance:
    pretrained_model_name_or_path: "${system.prompt_processor.pretrained_model_name_or_path}"
    guidance_scale: 100.
    weighting_strategy: sds
    min_step_percent: 0.02
    max_step_percent: 0.98
  loggers: {wandb: {enable: false, project: threestudio, name: None}}
  loss: {lambda_sds: 1., lambda_orient: [0, 10., 1000., 5000], lambda_sparsity: 1., lambda_opaque: 0.}
  optimizer:
    name: Adam
    args: {lr: 0.01, betas: [0.9, 0.99], eps: 1.e-15}
    params: {geometry: {lr: 0.01}, background: {lr: 0.001}}
trainer: {max_steps: 4}
"""


@pytest.fixture(autouse=True)
def _cpu():
    set_device("cpu")
    yield
    set_device(None)


@pytest.fixture
def picture(tmp_path) -> Path:
    """A red square on nothing."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = [255, 0, 0, 255]
    Image.fromarray(rgba).save(tmp_path / "square_rgba.png")
    Image.fromarray(rgba[..., 3]).save(tmp_path / "square_depth.png")
    return tmp_path / "square_rgba.png"


# Renderer -------------------------------------------------------------------------------------------------------------


class Ball(BaseImplicitGeometry):
    """A ball of constant density and colour."""

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        ball: float = 0.5
        density: float = 4.0

    def configure(self) -> None:
        super().configure()
        self.density = nn.Parameter(torch.tensor(self.cfg.density))

    def forward_density(self, points):
        return self.density * (points.norm(dim=-1, keepdim=True) < self.cfg.ball).float()

    def forward(self, points, output_normal=False):
        out = {"density": self.forward_density(points), "features": torch.ones_like(points) * 0.25}
        if output_normal:
            out["normal"] = out["shading_normal"] = nn.functional.normalize(points, dim=-1)
        return out


class White(BaseBackground):
    def forward(self, dirs):
        return torch.ones_like(dirs)


def make_renderer(**cfg):
    material = threestudio.find("no-material")({"color_activation": "none", "requires_normal": True})
    geometry = Ball({})
    renderer = threestudio.find("nerf-volume-renderer")(
        {"num_samples_per_ray": 400, **cfg}, geometry=geometry, material=material, background=White({})
    )
    return renderer, geometry


def rays_at(*heights: float) -> dict[str, torch.Tensor]:
    """Rays along x that pass the centre at these heights, [1, 1, W, 3]."""
    origins = torch.tensor([[-2.0, 0.0, h] for h in heights])[None, None]
    directions = torch.tensor([1.0, 0.0, 0.0]).expand_as(origins)
    return {"rays_o": origins, "rays_d": directions, "light_positions": torch.zeros(1, 3)}


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"grid_prune": False},
        {"estimator": "importance", "near_plane": 0.5, "far_plane": 3.5},
    ],
    ids=["occgrid", "all samples", "importance"],
)
def test_a_ball_absorbs_along_its_chord(cfg):
    renderer, _ = make_renderer(**cfg)
    out = renderer.eval()(**rays_at(0.0, 0.3, 0.9))
    chords = torch.tensor([1.0, 0.8, 0.0])
    opacity = 1 - torch.exp(-4.0 * chords)
    assert torch.allclose(out["opacity"][0, 0, :, 0], opacity, atol=0.01)
    assert torch.allclose(out["comp_rgb"][0, 0, :, 0], 0.25 * opacity + 1 - opacity, atol=0.01)
    near, far = 1.5, 2.5
    mean = near + 0.25 - math.exp(-4) * (far + 0.25)  # of an exponential decay, not normalised
    assert out["depth"][0, 0, 0, 0].item() == pytest.approx(mean, abs=0.01)
    assert out["z_variance"][0, 0, 2, 0] == 0 < out["z_variance"][0, 0, 0, 0]
    assert out["comp_normal"][0, 0, 0, 0] < 0.05 * opacity[0]  # towards the camera, as a colour
    assert "weights" not in out


def test_training_gives_samples_and_gradients():
    renderer, geometry = make_renderer(num_samples_per_ray=2000, return_comp_normal=True, return_normal_perturb=True)
    for step in range(0, 160, 16):  # every look finds more of the cells that the ball only touches
        renderer.train().update_step(0, step)
    assert renderer.occupancy.binary.sum() < 32**3 / 4
    out = renderer(**rays_at(0.0, 0.3), height=1, width=2, elevation=torch.zeros(1))
    samples = len(out["points"])
    for name in ("weights", "t_points", "t_intervals", "t_dirs", "normal", "normal_perturb", "density", "features"):
        assert len(out[name]) == samples, name
    assert set(out["ray_indices"].tolist()) == {0, 1} and "comp_normal" in out
    out["opacity"].sum().backward()
    expected = sum(c * math.exp(-4 * c) for c in (1.0, 0.8))
    assert geometry.density.grad.item() == pytest.approx(expected, rel=0.02)


def test_backgrounds_given_by_hand_and_rays_that_are_no_unit_vectors():
    renderer, _ = make_renderer()
    rays = rays_at(0.3, 0.9)
    out = renderer.eval()(**rays, bg_color=torch.tensor([[0.0, 1.0, 0.0]]))
    assert out["comp_rgb"][0, 0, 1].tolist() == [0.0, 1.0, 0.0]
    stretched = renderer(**{**rays, "rays_d": rays["rays_d"] * 2})
    # distances count in lengths of the direction, as upstream's do: half as far, and half as much is absorbed
    assert stretched["opacity"][0, 0, 0, 0].item() == pytest.approx(1 - math.exp(-4 * 0.8 / 2), abs=0.01)
    assert 0.8 < stretched["depth"][0, 0, 0, 0] / stretched["opacity"][0, 0, 0, 0] < 1.2


def test_nothing_on_any_ray():
    renderer, _ = make_renderer()
    renderer.occupancy.set_binary(torch.zeros(32, 32, 32, dtype=torch.bool))
    out = renderer.train()(**rays_at(0.0, 0.1))
    assert (out["opacity"] == 0).all() and (out["comp_rgb"] == 1).all()


def test_the_proposal_estimator_is_named_as_upstreams():
    with pytest.raises(UserError, match="'occgrid' or 'importance' here"):
        make_renderer(estimator="proposal")


def test_importance_samples_lie_where_light_is_absorbed():
    edges = torch.tensor([[0.0, 0.5, 1.0]])
    halves = sample_edges(edges, torch.tensor([[0.0, 0.9, 1.0]]), 10)
    assert halves.shape == (1, 11) and (halves.diff() > 0).all()
    assert (halves < 0.5).sum() == 9 and halves[0, 0] >= 0 and halves[0, -1] <= 1
    starts, ends = ImportanceEstimator().sampling(
        [lambda a, b: 50.0 * ((a + b) / 2 > 1.5).float()], [32], 16, 2, near_plane=1.0, far_plane=2.0
    )
    assert starts.shape == ends.shape == (2, 49) and torch.equal(starts[:, 1:], ends[:, :-1])
    assert ((starts > 1.45) & (starts < 1.7)).sum() > 2 * 16


# Data and geometry ----------------------------------------------------------------------------------------------------


def test_a_picture_and_its_camera(picture):
    module = threestudio.find("single-image-datamodule")(
        {
            "image_path": str(picture),
            "height": [16, 8],
            "width": [16, 8],
            "resolution_milestones": [5],
            "requires_depth": True,
            "default_azimuth_deg": 0.0,
            "default_camera_distance": 2.0,
            "random_camera": {"batch_size": 3, "n_val_views": 2, "eval_height": 8, "eval_width": 8},
        }
    )
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["rgb"].shape == (1, 16, 16, 3) and batch["mask"].dtype == torch.bool
    assert batch["mask"].sum() == 64 and batch["rgb"][0, 8, 8].tolist() == [1.0, 0.0, 0.0]
    assert batch["ref_depth"].shape == (1, 16, 16, 1) and batch["ref_normal"] is None
    assert batch["random_camera"]["c2w"].shape == (3, 4, 4) and batch["c2w"].shape == (1, 4, 4)
    assert torch.allclose(batch["camera_positions"], torch.tensor([[2.0, 0.0, 0.0]]), atol=1e-6)
    middle = batch["rays_d"][0, 7:9, 7:9].mean((0, 1))
    assert torch.allclose(middle, torch.tensor([-1.0, 0.0, 0.0]), atol=0.02)
    module.train_dataset.update_step(0, 5)
    assert module.train_dataset.collate(None)["rgb"].shape == (1, 8, 8, 3)
    assert len(list(module.val_dataloader())) == 2
    with pytest.raises(UserError, match="data.image_path: there is no picture"):
        threestudio.find("single-image-datamodule")({"image_path": "nowhere.png"}).setup("fit")


SMALL_GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4}


def test_a_signed_distance_starts_as_a_sphere():
    sdf = threestudio.find("implicit-sdf")(
        {
            "pos_encoding_config": SMALL_GRID,
            "sdf_bias": "sphere",
            "sdf_bias_params": 0.5,
            "isosurface_resolution": 32,
            "isosurface_method": "mc-cpu",
        }
    )
    directions = nn.functional.normalize(torch.randn(20, 3), dim=-1)
    for kind in ("finite_difference", "finite_difference_laplacian", "analytic"):
        sdf.cfg.normal_type = kind
        out = sdf(directions * 0.6, output_normal=True)
        assert torch.allclose(out["sdf"], torch.full((20, 1), 0.1), atol=0.02)
        assert (out["normal"] * directions).sum(-1).min() > 0.95
        assert torch.allclose(out["sdf_grad"].norm(dim=-1), torch.ones(20), atol=0.1)
    assert sdf.isosurface().v_pos.norm(dim=-1).sub(0.5).abs().max() < 0.05


def test_a_signed_distance_is_fitted_to_a_shape(monkeypatch):
    monkeypatch.setattr("threestudio.models.geometry.implicit_sdf.INITIAL_STEPS", 300)
    monkeypatch.setattr("threestudio.models.geometry.implicit_sdf.INITIAL_POINTS", 500)
    encoding = {"otype": "ProgressiveBandFrequency", "n_frequencies": 2, "include_xyz": True}
    cfg = {"pos_encoding_config": encoding, "shape_init": "ellipsoid", "shape_init_params": [0.5, 0.5, 0.8]}
    sdf = threestudio.find("implicit-sdf")(cfg)
    sdf.initialize_shape()
    inside, outside = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.9, 0.0, 0.0]])
    assert sdf.forward_sdf(inside) < 0 < sdf.forward_sdf(outside)
    with pytest.raises(UserError, match="shape_init is 'sphere'"):
        threestudio.find("implicit-sdf")({**cfg, "shape_init": "mesh:ball.obj"}).initialize_shape()


def test_the_blob_is_annealed():
    anneal = {"min_anneal_step": 10, "max_anneal_step": 20, "start_val": 0.5, "end_val": 0.3}
    volume = threestudio.find("implicit-volume")(
        {"pos_encoding_config": SMALL_GRID, "anneal_density_blob_std_config": anneal}
    )
    seen = []
    for step in (0, 10, 15, 20, 30):
        volume.update_step(0, step)
        seen.append(volume.density_blob_std)
    assert seen == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.3])


@dataclass
class Base:
    radius: float = 1.0


@dataclass
class Holder:
    """As threestudio-stable-nerf-renderer has it: the key holds what a subclass of the annotation knows."""

    part: Base | None = None


def test_a_key_typed_by_a_base_class_holds_the_keys_of_another_class():
    cfg = parse_structured(Holder, OmegaConf.create({"part": {"radius": 2.0, "num_samples_per_ray": 512}}))
    assert cfg.part.num_samples_per_ray == 512


# Guidance and prompts -------------------------------------------------------------------------------------------------


def batch_of_views(count: int = 2) -> dict[str, torch.Tensor]:
    return {
        "rgb": torch.rand(count, 16, 16, 3, requires_grad=True),
        "elevation": torch.tensor([0.0, 70.0])[:count],
        "azimuth": torch.tensor([10.0, 170.0])[:count],
        "camera_distances": torch.full((count,), 2.0),
        "mvp_mtx": torch.eye(4).repeat(count, 1, 1),
        "c2w": torch.eye(4).repeat(count, 1, 1),
        "rays_o": torch.zeros(count, 16, 16, 3),
        "height": 16,
    }


def test_stable_diffusion_guidance_counts_its_scale_as_upstream():
    model = tiny_sd()
    prompt = TextPromptProcessor({"prompt": "a fox"}, model.text)()
    fixed = {"half_precision_weights": False, "sample_posterior": False, "min_step_percent": 0.5}
    fixed["max_step_percent"] = 0.5
    theirs = threestudio.find("stable-diffusion-guidance")({**fixed, "guidance_scale": 9.0}, model)
    ours = StableDiffusionGuidance({**fixed, "guidance_scale": 10.0}, model)
    batch = batch_of_views()
    losses = []
    for guidance in (theirs, ours):
        torch.manual_seed(0)
        cameras = {name: batch[name] for name in ("elevation", "azimuth", "camera_distances")}
        extra = {k: v for k, v in batch.items() if k not in cameras and k != "rgb"} if guidance is theirs else {}
        losses.append(guidance(batch["rgb"], prompt, **cameras, **extra, rgb_as_latents=False)["loss_sds"])
    assert losses[0] == losses[1] > 0


def test_sqrt_anneal():
    cfg = {"sqrt_anneal": True, "trainer_max_steps": 100, "min_step_percent": 0.2, "max_step_percent": 0.6}
    guidance = threestudio.find("stable-diffusion-guidance")(cfg, tiny_sd())
    steps = []
    for step in (0, 25, 100, 200):
        guidance.update_step(0, step)
        steps.append((guidance.min_step, guidance.max_step))
    assert steps == [(600, 600), (400, 400), (200, 200), (200, 200)]


@pytest.mark.parametrize("key", ["use_sjc", "use_img_loss", "token_merging"])
def test_variants_that_are_not_here_are_refused(key):
    with pytest.raises(UserError, match=f"guidance.{key}: .* no such variant"):
        threestudio.find("stable-diffusion-guidance")({key: True}, tiny_sd())


def test_perp_neg_is_refused():
    model = tiny_sd()
    prompt = TextPromptProcessor({"prompt": "a fox", "use_perp_neg": True}, model.text)()
    guidance = threestudio.find("stable-diffusion-guidance")({}, model)
    with pytest.raises(UserError, match="use_perp_neg"):
        guidance(prompt_utils=prompt, **batch_of_views())


def test_variational_score_distillation():
    model = tiny_sd("latents")
    prompt = TextPromptProcessor({"prompt": "a fox"}, model.text)()
    guidance = threestudio.find("stable-diffusion-vsd-guidance")({}, model, tiny_sd("latents", "v_prediction", 1))
    batch = batch_of_views()
    out = guidance(batch.pop("rgb"), prompt, **batch, rgb_as_latents=False)
    assert {"loss_vsd", "loss_lora", "grad_norm"} <= set(out)
    out["loss_lora"].backward()
    assert list(guidance.parameters())


@pytest.mark.parametrize(("name", "last"), [("zero123-guidance", 0.5), ("stable-zero123-guidance", math.radians(60))])
def test_zero123_is_shown_one_picture(name, last, picture):
    cfg = {"cond_image_path": str(picture), "cond_elevation_deg": 30.0, "cond_camera_distance": 1.5, "vram_O": True}
    guidance = threestudio.find(name)({**cfg, "pretrained_config": "x.yaml"}, tiny_zero123())
    batch = batch_of_views()
    camera = guidance.camera(batch["elevation"], batch["azimuth"], batch["camera_distances"])
    assert camera[:, 3].tolist() == pytest.approx([last, last])
    assert camera[:, 0].tolist() == pytest.approx([math.radians(30), math.radians(-40)])
    out = guidance(**batch)
    out["loss_sds"].backward()
    assert batch["rgb"].grad.abs().sum() > 0
    with pytest.raises(UserError, match="cond_image_path: there is no picture"):
        guidance.prepare_embeddings("nowhere.png")


def test_prompts_of_systems_without_any():
    processor = threestudio.find("dummy-prompt-processor")({"pretrained_model_name_or_path": "", "prompt": ""})
    assert processor() is None


def test_perceptual_loss_names_its_missing_weights(tmp_path, monkeypatch):
    from threestudio.utils.perceptual import PerceptualLoss
    from threestudio_4d.evaluation import lpips

    monkeypatch.setattr(lpips, "find_file", lambda name: None)
    with pytest.raises(ValueError, match="no LPIPS weights"):
        PerceptualLoss()
    monkeypatch.setattr(lpips, "load_lpips", lpips.LPIPS)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    loss = PerceptualLoss()
    assert loss(x, x).tolist() == [[[[0.0]]]] * 2
    assert (loss(x, -x) > 0).all()


# Together -------------------------------------------------------------------------------------------------------------


def test_upstreams_dreamfusion_takes_steps(tmp_path):
    tiny_sd().save(tmp_path / "sd")
    overrides = [f"exp_root_dir={tmp_path}", f"system.prompt_processor.pretrained_model_name_or_path={tmp_path}/sd"]
    cfg = load_config(DREAMFUSION, cli_args=overrides, from_string=True, n_gpus=1)
    assert Path(cfg.trial_dir).name.startswith("a_fox")
    pl.seed_everything(0)
    data = threestudio.find(cfg.data_type)(cfg.data)
    system = threestudio.find(cfg.system_type)(cfg.system, resumed=False)
    system.set_save_dir(str(tmp_path / "save"))
    before = {name: value.clone() for name, value in system.state_dict().items()}
    trainer = pl.Trainer(
        max_steps=cfg.trainer.max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
    )
    trainer.fit(system, data)
    assert trainer.global_step == 4
    moved = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert {"geometry.encoding.encoding.encoding.params", "background.network.layers.0.weight"} <= moved
    assert all(torch.isfinite(value).all() for value in system.state_dict().values())
    trainer.test(system, data, verbose=False)
    assert len(list((tmp_path / "save/it4-test").glob("*.png"))) == 2


def test_an_extension_of_somebody_else_imports(monkeypatch):
    """It imports what threestudio-3dgs, -4dfy, -mvdream and others do, by the same names."""
    folder = Path(__file__).parent / "extension"
    monkeypatch.setattr(sys, "path", list(sys.path))
    (module,) = load_custom_modules(folder)
    assert module.error is None, module.reason
    assert issubclass(threestudio.find("other-guidance"), threestudio.find("stable-zero123-guidance"))


def test_a_host_without_the_extension_says_so(monkeypatch):
    name = "stable-diffusion-prompt-processor"
    monkeypatch.delitem(threestudio.__modules__, name, raising=False)
    monkeypatch.delitem(sys.modules, threestudio._BUILTINS[name], raising=False)
    for loaded in [m for m in sys.modules if m.split(".")[0] == "threestudio_4d"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    with pytest.raises(UserError, match="a part of the extension threestudio_4d, which is not there"):
        threestudio.find(name)


class Without:
    """An import hook: there is no threestudio_4d."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "threestudio_4d":
            raise ModuleNotFoundError(f"No module named '{name}'", name="threestudio_4d")
