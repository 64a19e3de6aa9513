"""``zero123-guidance-t`` end to end on randomly initialised priors: gradients, batching, schedules, loading."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_zero123 import tiny_zero123

import threestudio
from threestudio_4d.diffusion.weights import resolve as prior_weights
from threestudio_4d.diffusion.weights.ldm_layout import SCHEDULER_CONFIG
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.zero123_guidance import Zero123GuidanceT, load_zero123

CODECS = ["pixels", "latents"]
FRAMES = 5


def make(codec: str = "pixels", **cfg) -> Zero123GuidanceT:
    cfg = {"min_step_percent": 0.2, "max_step_percent": 0.8, "half_precision_weights": False, **cfg}
    guidance = Zero123GuidanceT(cfg, tiny_zero123(codec))
    guidance.prepare(torch.rand(FRAMES, 16, 16, 3, generator=torch.Generator().manual_seed(1)))
    return guidance


def views(count: int = 4, size: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "rgb": torch.rand(count, size, size, 3, generator=generator),
        "elevation": torch.linspace(-10, 40, count),
        "azimuth": torch.linspace(-170, 170, count),
        "camera_distances": torch.full((count,), 2.0),
        "frame_indices": torch.arange(count) % FRAMES,
    }


def fixed(guidance: Zero123GuidanceT, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (count, *guidance.model.latent_shape)
    return {
        "noise": torch.randn(shape, generator=generator).to(guidance.device),
        "timesteps": torch.linspace(100, 900, count).long().to(guidance.device),
    }


def test_registered():
    assert threestudio.find("zero123-guidance-t") is Zero123GuidanceT


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [16, 24])
def test_end_to_end(codec, size):
    guidance, batch = make(codec), views(size=size)
    batch["rgb"].requires_grad_()
    out = guidance(**batch, timestamps=torch.zeros(4, 1), height=size, width=size)
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    assert out["loss_sds"].ndim == 0 and out["grad_norm"].ndim == 0
    assert (out["min_step"], out["max_step"]) == (200, 800)
    out["loss_sds"].backward()
    assert batch["rgb"].grad.abs().sum() > 0 and torch.isfinite(batch["rgb"].grad).all()


def test_the_loss_is_the_published_one():
    """sum over images of 1/2 |z - sg(z - g)|^2, over B, with g = (1 - a)(eps_hat - eps), all by hand."""
    guidance, batch = make("latents", sample_posterior=False, guidance_scale=5.0), views()
    given = fixed(guidance, 4)
    loss = guidance(**batch, **given)["loss_sds"]
    model, t = guidance.model, given["timesteps"]
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    z = model.encode(batch["rgb"].movedim(-1, 1), sample=False)
    noisy = a.sqrt() * z + (1 - a).sqrt() * given["noise"]
    camera = guidance.camera(batch["elevation"], batch["azimuth"], batch["camera_distances"])
    condition = guidance.condition[batch["frame_indices"]]
    context = model.camera_projection(torch.cat([condition.embeddings, camera[:, None]], -1))
    cond = model.unet(torch.cat([noisy, condition.latents], 1), t, context).sample
    uncond = model.unet(torch.cat([noisy, condition.latents * 0], 1), t, context * 0).sample
    gradient = (1 - a) * (uncond + 5 * (cond - uncond) - given["noise"])
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum() / 4, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_gradient_reaches_the_images_through_the_encoder(codec):
    """d loss / d rgb equals the product of the encoder's Jacobian with gradient / B."""
    guidance, batch = make(codec, sample_posterior=False), views()
    rgb = batch["rgb"].requires_grad_()
    result = guidance.distill(**batch, **fixed(guidance, 4))
    (direct,) = torch.autograd.grad(result.level_losses().sum(), rgb)
    (expected,) = torch.autograd.grad(guidance.encode(rgb), rgb, result.gradient / 4)
    torch.testing.assert_close(direct, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.grad_norm, result.gradient.norm() / 4)


def test_both_kinds_of_prediction_give_the_same_gradient():
    """The stable form for v-prediction is w(t)(eps_hat - eps), where that is not singular."""
    guidance, batch = make("pixels"), views()
    given = fixed(guidance, 4)
    result = guidance.distill(**batch, **given)
    latents = guidance.encode(batch["rgb"])
    a = guidance.model.alphas_cumprod[given["timesteps"]]
    noisy = sd.add_noise(latents, given["noise"], a)
    camera = guidance.camera(batch["elevation"], batch["azimuth"], batch["camera_distances"])
    eps, _ = guidance.predict(noisy, given["timesteps"], guidance.condition[batch["frame_indices"]], camera)
    expected = (1 - a.view(-1, 1, 1, 1)) * (eps - given["noise"])
    torch.testing.assert_close(result.gradient, expected, rtol=1e-3, atol=1e-3)


def test_the_last_step_of_a_zero_terminal_snr_schedule():
    guidance, batch = make("pixels"), views()
    given = {**fixed(guidance, 4), "timesteps": torch.full((4,), 999)}
    assert guidance.model.alphas_cumprod[999] < 1e-6
    result = guidance.distill(**batch, **given)
    assert torch.isfinite(result.loss).all() and result.gradient.abs().max() < 1e-2


def test_a_perfect_prior_leaves_the_images_alone(monkeypatch):
    guidance, batch = make("latents"), views()
    given = fixed(guidance, 4)
    monkeypatch.setattr(guidance.model, "predict", lambda noisy, *args: (given["noise"], noisy))
    assert guidance(**batch, **given)["loss_sds"] == 0


@pytest.mark.parametrize("weighting", ["sds", "x0"])
def test_images_move_to_what_the_prior_sees(monkeypatch, weighting):
    """A prior that always answers with one picture: following its score leads there."""
    guidance, batch = make("pixels", weighting_strategy=weighting), views()
    target = torch.rand(4, 16, 16, 3)
    clean, alphas = guidance.encode(target), guidance.model.alphas_cumprod

    def answer(noisy, t, *args):
        return sd.eps_from_x0(noisy, clean, alphas[t]), clean

    monkeypatch.setattr(guidance.model, "predict", answer)
    rgb = batch.pop("rgb").requires_grad_()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(guidance(rgb, **batch)["loss_sds"], rgb)
        with torch.no_grad():
            rgb -= 0.5 * gradient
    assert (rgb - target).abs().max() < 0.01


def test_camera_vector():
    guidance = make()
    camera = guidance.camera(torch.tensor([30.0]), torch.tensor([90.0]), torch.tensor([2.0]))
    torch.testing.assert_close(camera, torch.tensor([[-math.pi / 6, 1.0, 0.0, 0.0]]), atol=1e-6, rtol=1e-6)
    guidance = make(cond_elevation_deg=10.0, cond_azimuth_deg=45.0, cond_camera_distance=1.5)
    camera = guidance.camera(torch.tensor([10.0]), torch.tensor([45.0]), torch.tensor([2.0]))
    torch.testing.assert_close(camera, torch.tensor([[0.0, 0.0, 1.0, 0.5]]))


def test_unconditional_means_zero_after_the_projection(monkeypatch):
    guidance, batch, seen = make("latents"), views(2), {}
    denoise = guidance.model.denoise

    def spy(noisy, t, context, latents, camera):
        seen.update(context=context, latents=latents)
        return denoise(noisy, t, context, latents, camera)

    monkeypatch.setattr(guidance.model, "denoise", spy)
    guidance.distill(**batch)
    assert seen["context"].shape == (4, 1, 16)
    assert seen["context"][:2].abs().max() == 0 and seen["latents"][:2].abs().max() == 0
    assert seen["context"][2:].abs().min(dim=-1).values.min() > 0
    unscaled = guidance.model.vae.encode(
        torch.rand(FRAMES, 16, 16, 3, generator=torch.Generator().manual_seed(1)).movedim(-1, 1) * 2 - 1
    ).latent_dist.mode()
    torch.testing.assert_close(seen["latents"][2:], unscaled[:2])


def test_prepare_does_not_depend_on_its_chunks():
    guidance = make("latents")
    images = torch.rand(11, 16, 16, 3)
    guidance.prepare(images)
    assert len(guidance.condition) == 11
    together = guidance.model.encode_condition(images.movedim(-1, 1))
    torch.testing.assert_close(guidance.condition.latents, together.latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guidance.condition.embeddings, together.embeddings, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("codec", CODECS)
def test_levels_in_one_batch_equal_a_loop(codec):
    guidance = make(codec, sample_posterior=False)
    batch = views(6)  # two levels of three views
    for key in ("elevation", "azimuth", "camera_distances", "frame_indices"):
        batch[key] = batch[key][:3].repeat(2)
    given = fixed(guidance, 6)
    together = guidance.distill(**batch, **given, levels=2)
    for level in range(2):
        part = slice(3 * level, 3 * level + 3)
        alone = guidance.distill(**{key: value[part] for key, value in {**batch, **given}.items()})
        torch.testing.assert_close(together.level_losses()[level], alone.level_losses()[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.gradient[part], alone.gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("max_batch", [1, 4, 100])
def test_chunks_change_nothing(scale, max_batch):
    batch = views(5)
    whole, parts = make(guidance_scale=scale), make(guidance_scale=scale, max_batch=max_batch)
    given = fixed(whole, 5)
    expected, got = (guidance.distill(**batch, **given).gradient for guidance in (whole, parts))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_same_noise_for_all_levels():
    batch = views(6)
    result = make(use_same_noise=True).distill(**batch, levels=2)
    assert torch.equal(result.timesteps[:3], result.timesteps[3:])
    identical = {key: value[:3].repeat(2, *[1] * (value.ndim - 1)) for key, value in batch.items()}
    result = make(use_same_noise=True).distill(**identical, levels=2)
    torch.testing.assert_close(result.gradient[:3], result.gradient[3:], rtol=1e-3, atol=1e-4)
    result = make().distill(**identical, levels=2)
    assert (result.gradient[:3] - result.gradient[3:]).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"use_same_noise needs to know how many levels .* distill\(..., levels=L\)"):
        make(use_same_noise=True).distill(**batch)
    with pytest.raises(ValueError, match="6 images do not divide into 4 levels"):
        make().distill(**batch, levels=4)


def test_random_draws_follow_the_seed():
    guidance, batch = make(), views()
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(guidance.distill(**batch))
    assert torch.equal(draws[0].loss, draws[1].loss) and not torch.equal(draws[0].loss, draws[2].loss)
    assert len(draws[0].timesteps.unique()) > 1


def test_schedules():
    guidance = make(
        min_step_percent=[0, 0.8, 0.2, 5000],
        max_step_percent=[0, 0.98, 0.25, 5000],
        guidance_scale=[0, 5.0, 2.0, 100],
        grad_clip=[0, 1.0, 0.5, 100],
    )
    assert (guidance.min_step, guidance.max_step, guidance.guidance_scale, guidance.grad_clip) == (800, 980, 5.0, 1.0)
    guidance.do_update_step(0, 2500)
    assert (guidance.min_step, guidance.max_step, guidance.guidance_scale, guidance.grad_clip) == (500, 615, 2.0, 0.5)
    guidance.do_update_step(0, 9999)
    assert (guidance.min_step, guidance.max_step) == (200, 250)
    result = guidance.distill(**views())
    assert result.gradient.abs().max() <= 0.5
    assert int(result.timesteps.min()) >= 200 and int(result.timesteps.max()) <= 250


def test_pictures_to_look_at():
    out = make("latents")(**views(2), guidance_eval=True)["eval"]
    assert out["bs"] == 2 and len(out["noise_levels"]) == 2
    for key in ("imgs_noisy", "imgs_1step"):
        assert out[key].shape == (2, 16, 16, 3) and out[key].min() >= 0 and out[key].max() <= 1


@pytest.mark.parametrize("codec", CODECS)
def test_sampling(codec):
    batch = views(2)
    del batch["rgb"]
    images = make(codec).sample(**batch, steps=2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 16, 16, 3) and torch.isfinite(images).all()


def test_sampling_as_published():
    """Timesteps of the published schedule, and its eta: noise of its own in every step but the last."""
    guidance, batch, seen = make("latents"), views(2), []
    del batch["rgb"]
    model = guidance.model
    model.scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
    denoise = model.denoise_guided
    model.denoise_guided = lambda latents, t, *rest: (seen.append(int(t[0])), denoise(latents, t, *rest))[1]
    draws = [
        guidance.sample(**batch, steps=4, generator=torch.Generator().manual_seed(0), eta=eta)
        for eta in (0.0, 1.0, 1.0)
    ]
    assert seen == [751, 501, 251, 1] * 3  # 981, 961, ... 1 with 50 steps
    assert torch.equal(draws[1], draws[2]) and not torch.equal(draws[0], draws[1])


def test_checkpointing_the_encoder_changes_nothing():
    grads = []
    for checkpointing in (False, True):
        guidance, batch = make("latents", vae_checkpointing=checkpointing, sample_posterior=False), views()
        rgb = batch["rgb"].requires_grad_()
        guidance.distill(**batch, **fixed(guidance, 4)).loss.sum().backward()
        grads.append(rgb.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_autocast_of_the_trainer_is_ignored():
    guidance, batch = make("latents", sample_posterior=False), views()
    given = fixed(guidance, 4)
    expected = guidance.distill(**batch, **given).gradient
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(guidance.distill(**batch, **given).gradient, expected)


def test_nothing_is_trained_and_memory_of_the_network_is_not_kept():
    guidance, batch = make("latents"), views()
    batch["rgb"].requires_grad_()
    guidance(**batch)["loss_sds"].backward()
    assert all(p.grad is None and not p.requires_grad for p in guidance.model.parameters())


def test_a_network_that_overflows_is_named(monkeypatch):
    guidance, batch = make("latents"), views()
    nan = torch.full((4, *guidance.model.latent_shape), float("nan"))
    monkeypatch.setattr(guidance.model, "predict", lambda *args: (nan, nan))
    with pytest.raises(sd.NonFiniteScoreError, match=r"image\(s\) \[0, 1, 2, 3\] at timestep"):
        guidance(**batch)


def test_mistakes():
    with pytest.raises(RuntimeError, match=r"no input frames yet: call prepare\(images\) first"):
        Zero123GuidanceT({}, tiny_zero123()).distill(**views())
    with pytest.raises(IndexError, match="frame 9 asked for, but 5 frames are prepared"):
        make().distill(**{**views(), "frame_indices": torch.full((4,), 9)})
    with pytest.raises(ValueError, match=r"prepare wants images \[N, H, W, 3\], got \(2, 3, 16, 16\)"):
        make().prepare(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="half_dtype is 'fp8': it must be one of fp16, bf16"):
        make(half_dtype="fp8")
    with pytest.raises(ValueError, match="max_batch is 0: it must be a whole number, 1 or more"):
        make(max_batch=0)
    with pytest.raises(ValueError, match="weighting_strategy is 'sd': it must be one of sds"):
        make(weighting_strategy="sd")


@pytest.mark.parametrize("codec", CODECS)
def test_a_saved_prior_is_found_and_gives_the_same(codec, tmp_path, monkeypatch):
    model = tiny_zero123(codec)
    model.save(tmp_path / "load/priors/mini", dtype=torch.float32)
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "load/priors/mini"):
        loaded = load_zero123(name)
        for key, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key]), key
    guidance = Zero123GuidanceT({"pretrained_model_name_or_path": "mini"})
    assert not any(parameter.requires_grad for parameter in guidance.model.parameters())


def test_a_prior_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_zero123("latents").save(tmp_path / "p", dtype=torch.float32)
    path = next((tmp_path / "p/unet").glob("*.safetensors"))
    state = load_file(path)
    state.pop("conv_in.weight")
    save_file(state, path)
    with pytest.raises(UserError, match="do not fit UNet2DConditionModel: 1 missing keys"):
        Zero123Model.load(tmp_path / "p")


def test_missing_weights_are_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prior_weights, "search_roots", lambda: [tmp_path])
    with pytest.raises(UserError, match=r"no prior weights found for 'load/zero123/zero123-xl.ckpt'. Get it from"):
        Zero123GuidanceT({"pretrained_model_name_or_path": "load/zero123/zero123-xl.ckpt"})


@pytest.mark.gpu
@pytest.mark.parametrize("half_dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("codec", CODECS)
def test_half_precision_on_a_gpu(codec, half_dtype):
    reference = make(codec, sample_posterior=False)
    half = make(codec, sample_posterior=False, half_precision_weights=True, half_dtype=half_dtype)
    assert half.model.unet.dtype in (torch.float16, torch.bfloat16)
    assert half.model.image_encoder.device.type == "cpu"
    batch = {key: value.cuda() for key, value in views().items()}
    given = fixed(reference, 4)
    rgb = batch["rgb"].requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        result = half.distill(**batch, **given)
    result.loss.sum().backward()
    assert result.loss.dtype == torch.float32 and torch.isfinite(rgb.grad).all()
    expected = reference.distill(**batch, **given).gradient
    error = (result.gradient - expected).norm() / expected.norm()
    assert error < (5e-3 if half_dtype == "fp16" else 4e-2)
