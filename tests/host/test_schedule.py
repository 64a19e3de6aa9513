import pytest
from omegaconf import OmegaConf

from threestudio.utils.misc import C


def both(value):
    """A schedule as a plain list and as a config node."""
    return [value, tuple(value), OmegaConf.create({"v": value}).v]


def test_numbers_are_themselves():
    assert C(3, 0, 0) == 3 and C(0.5, 9, 9) == 0.5 and C(True, 0, 0) is True


@pytest.mark.parametrize("step, expected", [(0, 1.0), (50, 0.75), (100, 0.5), (1000, 0.5)])
def test_three_items(step, expected):
    for value in both([1.0, 0.5, 100]):
        assert C(value, 0, step) == pytest.approx(expected)


@pytest.mark.parametrize("step, expected", [(0, 1.0), (100, 1.0), (200, 0.5), (300, 0.0), (400, 0.0)])
def test_four_items(step, expected):
    for value in both([100, 1.0, 0.0, 300]):
        assert C(value, 0, step) == pytest.approx(expected)


@pytest.mark.parametrize("step, expected", [(0, 0), (5, 0.5), (10, 1), (15, 2), (20, 3), (30, 1), (40, -1), (99, -1)])
def test_long_form(step, expected):
    for value in both([0, 0.0, 1.0, 10, 3.0, 20, -1.0, 40]):
        assert C(value, 0, step) == pytest.approx(expected)


def test_float_end_counts_epochs():
    assert C([0, 0.0, 1.0, 10.0], 5, 1000) == pytest.approx(0.5)
    assert C([0, 0.0, 1.0, 10.0], 0, 1000) == 0.0


def test_geometric():
    assert C([0, 1.0, 0.01, 100], 0, 50, interpolation="exp") == pytest.approx(0.1)
    with pytest.raises(ValueError, match="positive"):
        C([0, 1.0, 0.0, 100], 0, 50, interpolation="exp")
    with pytest.raises(ValueError, match="'linear' or 'exp'"):
        C([0, 1.0, 0.5, 100], 0, 50, interpolation="cubic")


@pytest.mark.parametrize(
    "value, error",
    [
        ([1, 2], AssertionError),
        ([1, 2, 3, 4, 5], AssertionError),
        ({"a": 1}, TypeError),
        ("1", ValueError),
        (None, ValueError),
        ([0, 1, "x", 10], ValueError),
    ],
)
def test_errors(value, error):
    with pytest.raises(error):
        C(value, 0, 0)
    if isinstance(value, (list, dict)):
        with pytest.raises(error):
            C(OmegaConf.create({"v": value}).v, 0, 0)
