"""``mvdream-guidance``: the gradient of both forms of the loss against hand-computed ones, and what it refuses."""

import pytest
import torch
from tiny_mvdream import TEXT_WIDTH, tiny_mvdream

import threestudio
from threestudio.utils.misc import set_device
from threestudio_4d.diffusion.mvdream.model import rescale_std
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.mvdream_guidance import MVDreamGuidance
from threestudio_4d.tiny_priors.rendering.rasterise import camera_to_world

SCALE = 50.0


@pytest.fixture(autouse=True)
def _cpu():
    set_device("cpu")
    yield
    set_device(None)


class Prompts:
    """Stands for a prompt processor's output: one embedding for all views, or one for each."""

    def __init__(self) -> None:
        self.text, self.negative = torch.randn(1, 5, TEXT_WIDTH), torch.randn(1, 5, TEXT_WIDTH)
        self.asked: list[bool] = []

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent_prompting):
        self.asked.append(view_dependent_prompting)
        count = len(elevation)
        return torch.cat([self.text.expand(count, -1, -1), self.negative.expand(count, -1, -1)])


def build(codec="latents", **cfg) -> MVDreamGuidance:
    return MVDreamGuidance({"sample_posterior": False, **cfg}, tiny_mvdream(codec))


def views(groups=2, size=16) -> dict[str, torch.Tensor]:
    count = 4 * groups
    cameras = {"elevation": torch.full((count,), 15.0), "azimuth": torch.arange(count) * 90.0 + 10}
    cameras["camera_distances"] = torch.full((count,), 2.5)
    c2w = camera_to_world(*cameras.values())
    return {"rgb": torch.rand(count, size, size, 3, requires_grad=True), **cameras, "c2w": c2w}


def predictions(guidance, latents, noise, t, prompts, batch):
    """What the network says, by hand: guided noise and clean latents, and the conditional clean latents."""
    model = guidance.model
    noisy = sd.add_noise(latents, noise, model.alphas_cumprod[t])
    text, negative, camera = guidance.conditions(
        prompts, *(batch[k] for k in ("elevation", "azimuth")), batch["camera_distances"], batch["c2w"]
    )
    u, c = model.denoise(noisy, t, negative, camera), model.denoise(noisy, t, text, camera)
    eps, x0 = model.to_epsilon_and_x0(u + SCALE * (c - u), noisy, t)
    return eps, x0, model.to_epsilon_and_x0(c, noisy, t)[1]


@pytest.mark.parametrize("codec", ["latents", "pixels"])
@pytest.mark.parametrize("rescale", [0.5, 0.0])
def test_the_reconstruction_form(codec, rescale):
    """dL/dz = (z - x~) / B, and without rescaling sqrt((1 - a) / a) (eps_hat - eps) / B."""
    guidance, prompts, batch = build(codec, recon_std_rescale=rescale), Prompts(), views()
    latents = guidance.encode(batch["rgb"]).detach().requires_grad_()
    noise, t = torch.randn_like(latents), torch.full((8,), 400)
    eps, x0, plain = predictions(guidance, latents.detach(), noise, t, prompts, batch)
    target = rescale_std(x0, plain, 4, rescale)
    guidance.encode = lambda rgb: latents
    loss = guidance(**batch, prompt_utils=prompts, noise=noise, timesteps=t)["loss_sds"]
    loss.backward()
    torch.testing.assert_close(latents.grad, (latents.detach() - target) / 8, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(loss, 0.5 * (latents.detach() - target).square().sum() / 8, rtol=1e-3, atol=1e-4)
    if not rescale:
        a = guidance.model.alphas_cumprod[t].view(-1, 1, 1, 1)
        torch.testing.assert_close(latents.grad, ((1 - a) / a).sqrt() * (eps - noise) / 8, atol=2e-4, rtol=1e-3)


def test_plain_sds():
    guidance, prompts, batch = build(recon_loss=False), Prompts(), views()
    latents = guidance.encode(batch["rgb"]).detach().requires_grad_()
    noise, t = torch.randn_like(latents), torch.full((8,), 400)
    eps, _, _ = predictions(guidance, latents.detach(), noise, t, prompts, batch)
    guidance.encode = lambda rgb: latents
    guidance(**batch, prompt_utils=prompts, noise=noise, timesteps=t)["loss_sds"].backward()
    a = guidance.model.alphas_cumprod[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(latents.grad, (1 - a) * (eps - noise) / 8, atol=1e-4, rtol=1e-3)


def test_a_prior_that_knows_the_picture_pulls_towards_it():
    """A toy network whose conditional and unconditional clean latents are one target: every step is z - target."""
    guidance, prompts, batch = build("pixels", guidance_scale=3.0), Prompts(), views(groups=1)
    target = torch.randn(1, *guidance.model.latent_shape)
    model = guidance.model

    def denoise(noisy, t, text, camera):
        a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (a.sqrt() * noisy - target) / (1 - a).sqrt()

    model.denoise = denoise
    result = guidance.distill(**batch, prompt_utils=prompts)
    latents = guidance.encode(batch["rgb"])
    torch.testing.assert_close(result.gradient, latents - target, atol=1e-3, rtol=1e-3)


def test_one_timestep_for_all_views():
    guidance, prompts = build(), Prompts()
    seen = {tuple(guidance.distill(**views(), prompt_utils=prompts).timesteps.tolist()) for _ in range(6)}
    assert all(len(set(row)) == 1 for row in seen)
    assert len(seen) > 1
    assert prompts.asked == [False] * 6
    build(view_dependent_prompting=True).distill(**views(), prompt_utils=prompts)
    assert prompts.asked[-1] is True


def test_max_batch_changes_nothing():
    prompts, batch = Prompts(), views(groups=3)
    noise, t = torch.randn(12, 4, 8, 8), torch.full((12,), 300)
    whole, parts = (
        build(max_batch=rows).distill(**batch, prompt_utils=prompts, noise=noise, timesteps=t) for rows in (None, 9)
    )
    torch.testing.assert_close(whole.gradient, parts.gradient, atol=1e-4, rtol=1e-4)


def test_schedules_and_evaluation():
    guidance, prompts = build(min_step_percent=[0, 0.98, 0.02, 8000], max_step_percent=[0, 0.98, 0.5, 8000]), Prompts()
    assert (guidance.min_step, guidance.max_step) == (980, 980)
    guidance.update_step(0, 4000)
    assert (guidance.min_step, guidance.max_step) == (500, 740)
    guidance.update_step(0, 9000)
    assert (guidance.min_step, guidance.max_step) == (20, 500)
    out = guidance(**views(), prompt_utils=prompts, guidance_eval=True)
    assert {"loss_sds", "grad_norm", "min_step", "max_step", "eval"} == set(out)
    assert out["eval"]["imgs_1step"].shape == (8, 16, 16, 3)
    pictures = guidance.sample(prompts, **{k: v[:4] for k, v in views().items() if k != "rgb"}, steps=2)
    assert pictures.shape == (4, 16, 16, 3)


def test_what_it_refuses():
    assert threestudio.find("mvdream-guidance") is MVDreamGuidance
    for cfg, message in [
        ({"n_view": 6}, "n_view=6, but the prior draws 4"),
        ({"camera_condition_type": "mvp"}, "camera_condition_type is 'mvp': it must be rotation"),
        ({"recon_std_rescale": 1.5}, "recon_std_rescale is 1.5"),
        ({"max_batch": 0}, "max_batch is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(**cfg)
    batch = {key: value[:3] for key, value in views().items()}
    with pytest.raises(ValueError, match="3 images do not divide into groups of n_view=4"):
        build()(**batch, prompt_utils=Prompts())


@pytest.mark.gpu
@pytest.mark.parametrize("half_dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu(half_dtype, compiled):
    """Half precision agrees with single precision, compiled or not."""
    prompts, batch = Prompts(), views()
    noise, t = torch.randn(8, 4, 8, 8), torch.full((8,), 400)
    expected = build(guidance_scale=3.0).distill(**batch, prompt_utils=prompts, noise=noise, timesteps=t)
    set_device("cuda")
    batch = {key: value.detach().cuda().requires_grad_(key == "rgb") for key, value in batch.items()}
    guidance = build(guidance_scale=3.0, half_dtype=half_dtype, compile_unet=compiled)
    result = guidance.distill(**batch, prompt_utils=prompts, noise=noise.cuda(), timesteps=t.cuda())
    result.level_losses().sum().backward()
    assert batch["rgb"].grad.abs().sum() > 0
    error = (result.gradient.cpu() - expected.gradient).norm() / expected.gradient.norm()
    assert error < 0.05
