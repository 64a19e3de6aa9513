"""The network: published layout, warps, times, and the strict reading of its weights."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from threestudio_4d.errors import UserError
from threestudio_4d.interpolation.ifnet import IFNet, backward_warp
from threestudio_4d.interpolation.weights import expected_shapes, read_state


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return IFNet().state_dict()


def test_layout_is_the_published_one(state):
    assert len(state) == 120
    assert sum(value.numel() for value in state.values()) == 5_306_256
    first = {name: list(value.shape) for name, value in state.items() if name.endswith("conv0.0.0.weight")}
    assert first == {
        "block0.conv0.0.0.weight": [96, 7, 3, 3],
        "block1.conv0.0.0.weight": [64, 12, 3, 3],
        "block2.conv0.0.0.weight": [48, 12, 3, 3],
        "block3.conv0.0.0.weight": [32, 12, 3, 3],
    }
    assert list(state["block0.lastconv.0.weight"].shape) == [192, 24, 4, 4]
    assert list(state["block3.convblock.7.beta"].shape) == [1, 64, 1, 1]
    assert {name.rsplit(".", 1)[0] for name in state if name.startswith("block2.convblock.3")} == {
        "block2.convblock.3",
        "block2.convblock.3.conv",
    }


def test_warp_without_flow_is_the_identity():
    image = torch.rand(2, 3, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(backward_warp(image, image.new_zeros(2, 2, 7, 12)), image)


def test_warp_moves_by_pixels_and_repeats_the_border():
    image = torch.rand(1, 3, 6, 9, dtype=torch.float64)
    flow = image.new_zeros(1, 2, 6, 9)
    flow[:, 0], flow[:, 1] = 2.0, -1.0
    rows, columns = (torch.arange(6) - 1).clamp(min=0), (torch.arange(9) + 2).clamp(max=8)
    torch.testing.assert_close(backward_warp(image, flow), image[:, :, rows][:, :, :, columns])


def test_every_sample_has_its_own_time(state):
    network = IFNet().eval()
    first, last = torch.rand(2, 3, 3, 32, 64)
    times = torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        together = network(first, last, times)
        alone = torch.cat([network(first[i : i + 1], last[i : i + 1], times[i : i + 1]) for i in range(3)])
        other = network(first, last, torch.full((3,), 0.5))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], other[0])
    torch.testing.assert_close(together[1], other[1], atol=1e-5, rtol=1e-5)


def test_runs_in_other_dtypes():
    frames = torch.rand(2, 1, 3, 32, 32)
    network = IFNet().eval()
    with torch.no_grad():
        single = network(*frames, torch.tensor([0.5]))
        double = network.double()(*frames.double(), torch.tensor([0.5]))
        half = network.bfloat16()(*frames, torch.tensor([0.5]))
    assert double.dtype == torch.float64 and half.dtype == torch.float32
    torch.testing.assert_close(double.float(), single, atol=1e-4, rtol=1e-4)
    assert (half - single).abs().max() < 0.1


def test_gradient_matches_finite_differences():
    network = IFNet().double().requires_grad_(False)
    first, last = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64)
    direction = torch.randn_like(first)

    def value(step):
        return network(first + step * direction, last, torch.tensor([0.4])).square().sum()

    moved = first.clone().requires_grad_()
    network(moved, last, torch.tensor([0.4])).square().sum().backward()
    numeric = (value(1e-6) - value(-1e-6)) / 2e-6
    torch.testing.assert_close((moved.grad * direction).sum(), numeric, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("first", "times", "message"),
    [
        (torch.zeros(1, 3, 48, 64), torch.zeros(1), "multiples of 32, got 48 x 64"),
        (torch.zeros(1, 2, 32, 32), torch.zeros(1), r"\[N, 3 or more, H, W\], got \(1, 2, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32), torch.zeros(3), "one timestep a sample"),
    ],
)
def test_refuses_what_does_not_fit(first, times, message):
    with pytest.raises(ValueError, match=message):
        IFNet()(first, first, times)


@pytest.mark.parametrize("suffix", ["pkl", "safetensors"])
def test_reads_both_formats_with_and_without_prefix(state, tmp_path, suffix):
    path = tmp_path / f"flownet.{suffix}"
    prefixed = {f"module.{name}": value for name, value in state.items()}
    prefixed["module.block_tea.conv0.0.0.weight"] = torch.zeros(1)  # only for training: left out
    torch.save(prefixed, path) if suffix == "pkl" else save_file(state, path)
    read = read_state(path)
    assert list(read) == list(expected_shapes())
    for name, value in read.items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)


def _spoil(state, how):
    state = dict(state)
    if how == "missing":
        del state["block1.convblock.2.beta"]
    elif how == "unknown":
        state["block9.weight"] = torch.zeros(1)
    elif how == "shape":
        state["block0.conv0.0.0.bias"] = torch.zeros(3)
    elif how == "not finite":
        state["block0.conv0.0.0.bias"] = torch.full((96,), float("nan"))
    elif how == "v4.5":
        state = {k: v[:, :20] if "lastconv.0.weight" in k else v for k, v in state.items()}
    elif how == "v4.0":
        state = {k: v for k, v in state.items() if not k.endswith("beta")}
    elif how == "v4.7":
        state["encode.0.weight"] = torch.zeros(1)
    elif how == "nested":
        state = {"state_dict": state}
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"1 missing \(block1.convblock.2.beta\)"),
        ("unknown", r"1 unknown \(block9.weight\)"),
        ("shape", r"block0.conv0.0.0.bias is \[3\] and should be \[96\]"),
        ("not finite", "not finite, in block0.conv0.0.0.bias"),
        ("v4.5", "looks like RIFE v4.5; this network is v4.6"),
        ("v4.0", "looks like RIFE v4.4 or earlier"),
        ("v4.7", "looks like RIFE v4.7 or later"),
        ("nested", "not a flat table of named tensors"),
    ],
)
def test_a_wrong_file_is_refused(state, tmp_path, how, message):
    torch.save(_spoil(state, how), tmp_path / "flownet.pkl")
    with pytest.raises(UserError, match=message):
        read_state(tmp_path / "flownet.pkl")


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["T4D_TEST_BOMB"],))


@pytest.mark.parametrize("name", ["flownet.pkl", "flownet.safetensors"])
@pytest.mark.parametrize("content", ["pickle", "torch pickle", "text", "truncated", "empty"])
def test_code_and_damage_are_refused_unexecuted(state, tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("T4D_TEST_BOMB", str(tmp_path / "exploded"))
    path = tmp_path / name
    if content == "torch pickle":
        torch.save({"block0.weight": _Bomb()}, path)
    elif content == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path.write_bytes(
            {"pickle": pickle.dumps(_Bomb(), protocol=2), "text": b"hello, I am no checkpoint", "empty": b""}[content]
        )
    with pytest.raises(UserError, match="not a file of weights"):
        read_state(path)
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_state(tmp_path / "flownet.pkl")
    with pytest.raises(UserError, match="that is a folder"):
        read_state(tmp_path)
