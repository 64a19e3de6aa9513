"""Distances of sets of features: closed forms, scipy, and the numbers that published scripts gave."""

import numpy as np
import pytest
import scipy.linalg

from threestudio_4d.evaluation.frechet import consistent4d_distance, frechet_distance, frechet_distance_of_sets


def test_diagonal_gaussians_have_a_closed_form():
    """|m1 - m2|^2 + sum of (s1 - s2)^2."""
    distance = frechet_distance(
        np.array([0.0, 1, 2]), np.diag([4.0, 9, 1]), np.array([3.0, 1, -2]), np.diag([1.0, 4, 0])
    )
    assert distance == pytest.approx(25 + 1 + 1 + 1)


def test_rotated_gaussians_against_scipy():
    random = np.random.default_rng(0)
    factors = random.normal(size=(2, 6, 6))
    cov1, cov2 = factors[0] @ factors[0].T, factors[1] @ factors[1].T
    mean1, mean2 = random.normal(size=(2, 6))
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root.real)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "width"), [(40, 30, 5), (4, 7, 20), (2, 2, 50)])
def test_sets_equal_their_gaussians(n, m, width):
    random = np.random.default_rng(1)
    first, second = random.normal(size=(n, width)), 2 * random.normal(size=(m, width)) + 1
    expected = frechet_distance(
        first.mean(0), np.cov(first, rowvar=False), second.mean(0), np.cov(second, rowvar=False)
    )
    assert frechet_distance_of_sets(first, second) == pytest.approx(expected, rel=1e-6)


def test_sets_by_hand():
    """One feature: variances 2 and 8, means 2 and 6."""
    assert frechet_distance_of_sets(np.array([[1.0], [3]]), np.array([[4.0], [8]])) == pytest.approx(
        16 + (np.sqrt(8) - np.sqrt(2)) ** 2
    )
    same = np.random.default_rng(2).normal(size=(5, 300))
    assert frechet_distance_of_sets(same, same) == pytest.approx(0, abs=1e-9)
    assert frechet_distance_of_sets(same, same + 1) == pytest.approx(300)


def test_sets_that_have_no_covariance():
    with pytest.raises(ValueError, match="takes two clips or more, got 1 and 3"):
        frechet_distance_of_sets(np.zeros((1, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="expected features"):
        frechet_distance_of_sets(np.zeros((2, 4)), np.zeros((2, 5)))


def test_consistent4d_by_hand():
    """Logits 1, 2, 3 and 2, 4, 9: squared differences 1 + 4 + 36; standard deviations 1 and sqrt(13)."""
    assert consistent4d_distance(np.array([1.0, 2, 3]), np.array([2.0, 4, 9])) == pytest.approx(
        41 + (np.sqrt(13) - 1) ** 2
    )


def test_consistent4d_is_what_the_script_gave_with_an_old_numpy():
    """``np.cov`` of one row with ``rowvar=False`` was the variance over its 400 entries before numpy 2.2."""
    random = np.random.default_rng(3)
    first, second = random.normal(size=400), 1.5 * random.normal(size=400) + 0.2
    var1, var2 = (np.atleast_2d(np.cov(logits)) for logits in (first, second))
    root = scipy.linalg.sqrtm(var1 @ var2)
    expected = np.square(first - second).sum() + np.trace(var1) + np.trace(var2) - 2 * np.trace(root)
    assert consistent4d_distance(first, second) == pytest.approx(float(expected.real), rel=1e-12)
