"""I3D: parameter names of the published file, padding, time averaging; and the two ways to prepare clips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.i3d import I3D, MINIMUM_FRAMES, ConvUnit
from threestudio_4d.evaluation.video_features import (
    VideoFeatures,
    load_video_features,
    prepare_consistent4d,
    prepare_styleganv,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return I3D()


def test_has_the_names_and_shapes_of_the_published_file(network):
    state = network.state_dict()
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_3b.b1b.conv3d.weight"].shape == (128, 96, 3, 3, 3)
    assert state["Mixed_4f.b2a.bn.running_mean"].shape == (32,)
    assert state["Mixed_5c.b3b.conv3d.weight"].shape == (128, 832, 1, 1, 1)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1) and state["logits.conv3d.bias"].shape == (400,)
    units = 3 + 9 * 6  # each a weight and five entries of its normalisation; then the logits
    assert len(state) == units * 6 + 2
    assert sum(p.numel() for p in network.parameters()) == 12_697_264


@pytest.mark.parametrize(("size", "kernel", "stride"), [(9, 7, 2), (10, 7, 2), (5, 3, 1), (7, 2, 2)])
def test_pads_as_tensorflow_does(size, kernel, stride):
    """ceil(size / stride) values; of an odd number of zeros the last one stands at the end."""
    unit = ConvUnit(1, 1, kernel, stride, logits=True)
    torch.nn.init.ones_(unit.conv3d.weight)
    torch.nn.init.zeros_(unit.conv3d.bias)
    line = torch.zeros(1, 1, size, kernel, kernel)
    line[..., kernel // 2, kernel // 2] = torch.arange(1.0, size + 1)
    found = unit(line)[0, 0].amax((1, 2))
    steps = -(-size // stride)
    total = max((steps - 1) * stride + kernel - size, 0)
    padded = F.pad(torch.arange(1.0, size + 1), (total // 2, total - total // 2))
    expected = [float(padded[i * stride : i * stride + kernel].sum()) for i in range(steps)]
    assert found.tolist() == expected


def _fill(network):
    """Weights by a formula that lets pictures through to the logits."""
    state = network.state_dict()
    for number, key in enumerate(sorted(state)):
        value = state[key]
        if key.endswith("num_batches_tracked"):
            continue
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * (1.7 + 0.01 * number) + number)
        wave = wave.reshape(value.shape)
        if key.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif key.endswith("bn.weight"):
            wave = 1 + 0.2 * wave
        else:
            wave = wave * (4 / value[0].numel()) ** 0.5 if value.ndim == 5 else 0.1 * wave
        state[key] = wave.float()
    network.load_state_dict(state)
    return network


GOLDEN = [
    (I3D, [0.0523501411, 0.1093851998, 0.0444209576, -0.0300520379], 0.0711478226),
    (I3D.of_consistent4d, [0.0523463897, 0.1093870923, 0.0444282368, -0.0300603807], 0.0711475015),
]


@pytest.mark.parametrize(("build", "expected", "spread"), GOLDEN, ids=["videogpt", "consistent4d"])
def test_gives_what_the_published_network_gives(build, expected, spread):
    """Golden values of VideoGPT's and of Consistent4D's implementation on the same weights and clip; each agreed with
    ours to the last bit.
    """
    line = torch.linspace(-1, 1, 3 * 11 * 224 * 224, dtype=torch.float64)
    clip = torch.sin(40 * line * line + 7 * line).float().reshape(1, 3, 11, 224, 224)
    logits = _fill(build())(clip)[0]
    np.testing.assert_allclose(logits[[0, 1, 2, 399]], expected, atol=1.5e-6)
    assert float(logits.std()) == pytest.approx(spread, abs=1.5e-7)


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu():
    clip = torch.rand(1, 3, 11, 224, 224) * 2 - 1
    network = _fill(I3D())
    expected = network(clip)[0]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = network.cuda()(clip.cuda())[0].cpu()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nine_frames_are_the_least_of_videogpt(network):
    assert MINIMUM_FRAMES == 9
    assert network(torch.zeros(1, 3, 9, 224, 224)).shape == (1, 400)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 8, 224, 224))
    assert I3D.of_consistent4d()(torch.zeros(1, 3, 8, 224, 224)).shape == (1, 400)


def test_reads_a_state_dictionary(network, tmp_path):
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "i3d.pt")
    features = load_video_features(tmp_path / "i3d.pt", CPU)
    assert features.kind == "I3D state" and len(features.sha256) == 64 and features.minimum_frames == 9
    assert torch.equal(features.network.logits.conv3d.bias, network.logits.conv3d.bias)
    own = features.consistent4d
    assert torch.equal(own.network.logits.conv3d.bias, network.logits.conv3d.bias) and own.minimum_frames == 1
    assert {module.eps for module in own.network.modules() if isinstance(module, torch.nn.BatchNorm3d)} == {1e-3}
    assert own.network.pooled_steps == 1 and own.sha256 == features.sha256
    del state["logits.conv3d.bias"]
    torch.save(state, tmp_path / "i3d.pt")
    with pytest.raises(UserError, match="neither a TorchScript archive nor the weights of I3D: .*logits.conv3d.bias"):
        load_video_features(tmp_path / "i3d.pt", CPU)


class _Detector(torch.nn.Module):
    """Takes StyleGAN-V's options, and fails if they are not what a prepared clip needs."""

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        assert not rescale and not resize and return_features
        return x.mean((3, 4)).flatten(1)


class _Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x.mean((3, 4)).flatten(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("module", [_Detector(), _Plain()])
def test_reads_torchscript(module, tmp_path):
    torch.jit.script(module).save(str(tmp_path / "i3d.pt"))
    features = load_video_features(tmp_path / "i3d.pt", CPU)
    assert features.kind == "TorchScript"
    np.testing.assert_allclose(features(torch.full((3, 10, 8, 8), 0.5)), np.full(30, 0.5))


def test_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(UserError, match="needs an I3D network, which cannot be fetched: give --fvd-network FILE"):
        load_video_features(None, CPU)
    with pytest.raises(UserError, match="there is no file .*absent.pt"):
        load_video_features(tmp_path / "absent.pt", CPU)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(UserError, match="not a checkpoint that can be read safely"):
        load_video_features(tmp_path / "text.pt", CPU)
    bad = VideoFeatures(lambda clips: clips, "toy", "", "toy")
    with pytest.raises(UserError, match="toy must give one row of features a clip; it gives a tensor of shape"):
        bad(torch.zeros(3, 9, 4, 4))


def test_prepared_clips():
    frames = [Image.fromarray(np.full((40, 40, 3), value, np.uint8)) for value in (0, 51, 255)]
    for prepare in (prepare_consistent4d, prepare_styleganv):
        clip = prepare(frames)
        assert clip.shape == (3, 3, 224, 224) and clip.dtype == torch.float32
        np.testing.assert_allclose(clip[1, :, 7, 9], [-1, -0.6, 1], atol=1e-5)
    edge = Image.fromarray(np.repeat(np.uint8([[0] * 20 + [255] * 20]), 40, 0)).convert("RGB")
    assert prepare_consistent4d([edge]).max() > 1  # bicubic in floating point overshoots
    assert prepare_styleganv([edge]).max() <= 1
    expected = np.asarray(edge.split()[0].convert("F").resize((224, 224), Image.Resampling.BICUBIC)) / 127.5 - 1
    np.testing.assert_allclose(prepare_consistent4d([edge])[2, 0], expected, atol=1e-6)
