"""SVD: the parametrisation, the sampler against that of diffusers, and its files."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from PIL import Image
from tiny_svd import FRAMES, SIZE, tiny_scheduler, tiny_svd
from torch import nn

from threestudio_4d.diffusion.svd import edm
from threestudio_4d.diffusion.svd.model import SVDCondition, SVDModel, load_svd, resize_antialiased
from threestudio_4d.diffusion.t2v.temporal_convolution import TemporalConv3d
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd


def test_parametrisation_is_velocity_prediction_in_other_coordinates():
    sigma = torch.tensor([0.01, 0.7, 3.0, 80.0], dtype=torch.float64)
    clean, noise, output = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    noisy = clean + sd.per_sample(sigma, clean) * noise
    a = edm.alpha_bar(sigma)
    assert torch.allclose(edm.sigma_from_alpha_bar(a), sigma)
    _, _, c_in, _ = edm.scalings(sigma)
    seen = sd.per_sample(c_in, noisy) * noisy
    assert torch.allclose(seen, sd.add_noise(clean, noise, a))
    assert torch.allclose(edm.clean_from_output(output, noisy, sigma), sd.x0_from_v(seen, output, a))
    target = edm.output_target(clean, noise, sigma)
    assert torch.allclose(target, sd.v_from_eps_x0(noise, clean, a))
    assert torch.allclose(edm.clean_from_output(target, noisy, sigma), clean)


def test_training_noise_levels_follow_their_normal_distribution():
    generator = torch.Generator().manual_seed(0)
    sigma = edm.draw_training_sigmas(20000, 1e-4, 1e4, 0.5, 1.6, 0.0, "cpu", generator).log()
    assert sigma.mean().item() == pytest.approx(0.5, abs=0.01) and sigma.std().item() == pytest.approx(1.6, abs=0.02)
    sigma = edm.draw_training_sigmas(20000, 0.01, 80.0, 0.5, 1.6, 0.1, "cpu", generator)
    assert sigma.min() >= 0.0099 and sigma.max() <= 80.001
    assert (sigma == 80.0).float().mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("size", [(40, 56), (16, 16), (9, 40)])
def test_resize_before_the_image_encoder_is_the_published_one(size):
    images = torch.rand(2, 3, 40, 56)
    ours, theirs = resize_antialiased(images, size), _resize_with_antialiasing(images, size)
    assert torch.allclose(ours, theirs, atol=2e-6)


class _FeatureExtractor:
    """What the pipeline asks of a CLIPImageProcessor, which itself may need more libraries."""

    def __init__(self, model: SVDModel) -> None:
        self.model = model

    def __call__(self, images: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(pixel_values=(images - self.model._mean) / self.model._std)


@pytest.mark.parametrize("max_guidance_scale", [3.0, 1.0])
def test_every_step_of_the_sampler_equals_that_of_diffusers(max_guidance_scale):
    model = tiny_svd(encoder_size=224)  # the pipeline knows no other size
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    networks = [copy.deepcopy(network) for network in (model.vae, model.image_encoder, model.unet)]
    for module in (module for network in networks for module in network.modules()):
        if type(module) is TemporalConv3d:
            module.__class__ = nn.Conv3d
    pipeline = StableVideoDiffusionPipeline(*networks, tiny_scheduler(), _FeatureExtractor(model))
    pipeline.set_progress_bar_config(disable=True)
    theirs, ours = [], []

    def keep(pipe, step, timestep, values):
        theirs.append(values["latents"])
        return values

    settings = {"fps": 9, "noise_aug_strength": 0.05, "decode_chunk_size": 2, "max_guidance_scale": max_guidance_scale}
    clip = pipeline(
        Image.fromarray(pixels),
        height=SIZE,
        width=SIZE,
        num_frames=FRAMES,
        num_inference_steps=6,
        motion_bucket_id=40,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        callback_on_step_end=keep,
        **settings,
    ).frames
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    sampled = model.sample(
        picture,
        motion_bucket=40,
        steps=6,
        generator=torch.Generator().manual_seed(3),
        on_step=lambda step, latents: ours.append(latents),
        **settings,
    )
    assert len(ours) == len(theirs) == 6
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item()), f"step {step}"
    assert torch.allclose(sampled, clip.view_as(sampled), atol=2e-4)
    assert sampled.shape == (1, FRAMES, 3, SIZE, SIZE)


def test_classifier_free_guidance_rises_over_the_frames_and_passes_can_be_split():
    model = tiny_svd()
    condition = model.encode_condition(torch.rand(2, 3, SIZE, SIZE), (SIZE, SIZE), 0.0)
    ids = model.time_ids(7, 127, 0.0, 2)
    noisy, sigma = torch.randn(2, FRAMES, 4, 8, 8), torch.tensor([0.5, 3.0])
    nothing = SVDCondition(torch.zeros_like(condition.embeddings), torch.zeros_like(condition.latents))
    scales = edm.frame_guidance_scales(FRAMES, 1.0, 3.0, "cpu")
    assert scales.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
    with torch.no_grad():
        conditional = model.predict(noisy, sigma, condition, ids)
        unconditional = model.predict(noisy, sigma, nothing, ids)
        guided = model.predict(noisy, sigma, condition, ids, scales)
        split = model.predict(noisy, sigma, condition, ids, scales, max_batch=1)
    expected = unconditional + scales.view(1, -1, 1, 1, 1) * (conditional - unconditional)
    assert torch.allclose(guided, expected, atol=1e-4) and torch.allclose(split, guided, atol=1e-4)
    assert torch.allclose(guided[:, 0], conditional[:, 0], atol=1e-5)
    assert not torch.allclose(conditional, unconditional, atol=1e-3)


@pytest.mark.parametrize("changed", [{"fps": 20}, {"motion_bucket": 10}, {"noise_aug_strength": 0.4}])
def test_each_number_reaches_the_network(changed):
    model = tiny_svd()
    condition = model.encode_condition(torch.rand(1, 3, SIZE, SIZE), (SIZE, SIZE), 0.0)
    noisy, sigma = torch.randn(1, FRAMES, 4, 8, 8), torch.ones(1)
    numbers = {"fps": 7, "motion_bucket": 127, "noise_aug_strength": 0.02}
    with torch.no_grad():
        plain, other = (
            model.predict(noisy, sigma, condition, model.time_ids(**values, count=1))
            for values in (numbers, numbers | changed)
        )
    assert (plain - other).abs().max() > 1e-5
    assert torch.allclose(model.time_ids(**numbers, count=1), torch.tensor([[6.0, 127.0, 0.02]]))


def test_decoder_sees_the_frames_of_a_chunk_together_and_keeps_clips_apart():
    model = tiny_svd()
    latents = torch.randn(2, FRAMES, 4, 8, 8)
    with torch.no_grad():
        whole, chunks = model.decode(latents), model.decode(latents, chunk_size=2)
        alone = model.decode(latents[1:], chunk_size=2)
    assert whole.shape == (2, FRAMES, 3, SIZE, SIZE)
    assert torch.allclose(chunks[1:], alone, atol=1e-5)
    assert not torch.allclose(whole, chunks, atol=1e-5)


def test_latents_of_frames_are_scaled_and_that_of_the_picture_is_not():
    model = tiny_svd()
    picture = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        condition = model.encode_condition(picture, (SIZE, SIZE), noise_aug_strength=0.0)
        latents = model.encode(picture[:, None])
    assert torch.allclose(latents[:, 0], 0.7 * condition.latents, atol=1e-6)
    assert condition.embeddings.shape == (1, 1, 24)


@pytest.mark.parametrize("int8", [False, True])
def test_a_saved_prior_loads_again(tmp_path, int8):
    model = tiny_svd()
    model.save(tmp_path / "prior", torch.float32, int8=int8)
    loaded = load_svd(str(tmp_path / "prior"))
    noisy, sigma = torch.randn(1, FRAMES, 4, 8, 8), torch.ones(1)
    with torch.no_grad():
        condition = model.encode_condition(torch.rand(1, 3, SIZE, SIZE), (SIZE, SIZE), 0.0)
        a, b = (m.predict(noisy, sigma, condition, m.time_ids(7, 127, 0.02, 1)) for m in (model, loaded))
    assert torch.allclose(a, b, atol=0.2 if int8 else 1e-5)
    assert loaded.sigma_range == (0.002, 700.0) and loaded.image_mean == model.image_mean


def test_what_does_not_fit_is_named(tmp_path):
    model = tiny_svd()
    with pytest.raises(UserError, match="divide by 4, got 16 x 18"):
        model.sample(torch.rand(1, 3, SIZE, SIZE), size=(16, 18))
    scheduler = tiny_scheduler()
    scheduler.register_to_config(prediction_type="epsilon")
    with pytest.raises(UserError, match="prediction_type 'v_prediction'"):
        SVDModel(model.unet, model.vae, model.image_encoder, scheduler)
    with pytest.raises(UserError, match="no folder 'unet'"):
        SVDModel.load(tmp_path)
    (tmp_path / "svd.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="folder in diffusers layout"):
        load_svd(str(tmp_path / "svd.safetensors"))
