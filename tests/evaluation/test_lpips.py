"""LPIPS against a formula written down once more, and, where the weights are, against recorded values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.lpips import LPIPS, WEIGHTS, find_weights, load_lpips
from threestudio_4d.paths import find_file


def _by_the_formula(state, first, second, plan):
    """sum over taps of the mean over pixels of sum_c w_c (a_c / |a| - b_c / |b|)^2, in double precision and loops."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    pictures = [((p.double() + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1) for p in (first, second)]
    total, index, tap = 0.0, 0, 0
    for step in plan:
        if step[0] == "pool":
            pictures = [F.max_pool2d(p[None], step[1], 2)[0] for p in pictures]
            continue
        weight, bias = state[f"trunk.{index}.weight"].double(), state[f"trunk.{index}.bias"].double()
        pictures = [F.conv2d(p[None], weight, bias, step[1], step[2])[0].clamp(min=0) for p in pictures]
        index += 1
        if step[3]:
            a, b = (p / p.norm(dim=0, keepdim=True).clamp(min=1e-10) for p in pictures)
            head = state[f"heads.{tap}"].double()
            total += sum(float(head[c] * (a[c] - b[c]).square().mean()) for c in range(len(head)))
            tap += 1
    return total


_CONV = ("conv", 1, 1, False)
_TAP = ("conv", 1, 1, True)
_PLANS = {
    "alex": [("conv", 4, 2, True), ("pool", 3), ("conv", 1, 2, True), ("pool", 3), _TAP, _TAP, _TAP],
    "vgg": [
        *(_CONV, _TAP, ("pool", 2), _CONV, _TAP, ("pool", 2), _CONV, _CONV, _TAP, ("pool", 2)),
        *(_CONV, _CONV, _TAP, ("pool", 2), _CONV, _CONV, _TAP),
    ],
}


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_equals_the_formula_on_random_weights(trunk):
    network = LPIPS(trunk)
    state = network.state_dict()
    for key, value in state.items():
        if key.startswith("heads"):
            value.uniform_(0, 1)
    pictures = torch.rand(2, 2, 3, 40, 40) * 2 - 1
    distances = network(*pictures)
    expected = [_by_the_formula(state, pictures[0, i], pictures[1, i], _PLANS[trunk]) for i in range(2)]
    assert distances.tolist() == pytest.approx(expected, rel=1e-4)
    assert network(pictures[0], pictures[0]).tolist() == [0, 0]


def test_loads_strictly(tmp_path):
    for trunk in ("alex", "vgg"):
        with pytest.raises(UserError, match="no LPIPS weights at .*fetch.* lpips"):
            find_weights(trunk, tmp_path)
    state = LPIPS("alex").state_dict()
    save_file(state, tmp_path / "alex.safetensors")
    assert torch.equal(load_lpips("alex", tmp_path).state_dict()["heads.4"], state["heads.4"])
    del state["heads.4"]
    save_file(state, tmp_path / "alex.safetensors")
    with pytest.raises(UserError, match="does not hold the weights of LPIPS"):
        load_lpips("alex", tmp_path)
    (tmp_path / "vgg.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="does not hold the weights of LPIPS"):
        load_lpips("vgg", tmp_path)


def _checkerboard_and_ramp():
    """Two 64 x 64 pictures that need no file: a checkerboard of squares of 8, and a ramp of grey."""
    y, x = np.mgrid[:64, :64]
    board = ((x // 8 + y // 8) % 2).astype(np.float32)
    ramp = (x / 63).astype(np.float32)
    return (torch.from_numpy(2 * np.stack([p] * 3) - 1)[None].float() for p in (board, ramp))


@pytest.mark.parametrize(("trunk", "expected"), [("alex", 0.870546), ("vgg", 0.744419)])
def test_recorded_values_of_the_published_weights(trunk, expected):
    if find_file(WEIGHTS[trunk]) is None:
        pytest.skip(f"{WEIGHTS[trunk]} is absent (python -m threestudio_4d.fetch lpips)")
    board, ramp = _checkerboard_and_ramp()
    assert load_lpips(trunk)(board, ramp).item() == pytest.approx(expected, rel=1e-4)
