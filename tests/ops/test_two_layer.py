"""The two-layer network that recomputes its hidden layer, against plain autograd."""

import pytest
import torch

from threestudio_4d.ops import two_layer as module


@pytest.mark.parametrize("count", [0, 3, 50])
def test_equals_autograd_in_parts(count, monkeypatch):
    monkeypatch.setattr(module, "ROWS_CPU", 16)
    features = torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
    first, second = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 5), (3, 7)))
    inputs = (features, first, second)
    expected = (features @ first.T).relu() @ second.T
    value = module.two_layer(*inputs)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(value, expected)
    pairs = zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (value, expected)), strict=True)
    for grad, target in pairs:
        torch.testing.assert_close(grad, target)
