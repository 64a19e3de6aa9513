"""Distances of sets of features: Frechet distance, and the closed form behind Consistent4D's "FVD".

All in float64 numpy. No matrix square root of an unsymmetric product is taken: ``scipy.linalg.sqrtm`` of two
near-singular covariances depends on the version and may fail.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians with means [D] and covariances [D, D].

    ``|m1 - m2|^2 + Tr(C1) + Tr(C2) - 2 Tr((C1 C2)^(1/2))``. The last trace is that of the square root of the symmetric
    ``C1^(1/2) C2 C1^(1/2)``, whose eigenvalues are those of ``C1 C2``.
    """
    values, vectors = np.linalg.eigh(np.asarray(cov1, np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ np.asarray(cov2, np.float64) @ root)
    cross = np.sqrt(np.maximum(inner, 0.0)).sum()
    shift = np.square(np.asarray(mean1, np.float64) - np.asarray(mean2, np.float64)).sum()
    return float(max(shift + np.trace(cov1) + np.trace(cov2) - 2 * cross, 0.0))


def frechet_distance_of_sets(first: np.ndarray, second: np.ndarray, ddof: int = 1) -> float:
    """:func:`frechet_distance` of the Gaussians of two sets of features [N, D] and [M, D], N and M at least 2.

    With centred features A and B, ``C1 = A'A / (N - ddof)`` and ``C2 = B'B / (M - ddof)``, the eigenvalues of ``C1 C2``
    are the squared singular values of ``A B'`` over ``(N - ddof)(M - ddof)``: an N x M problem, exact for fewer clips
    than features, where a square root of D x D matrices of low rank loses digits.

    Raises:
        ValueError: shapes that do not fit, or a set of fewer than two.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected features [N, D] and [M, D], got {first.shape} and {second.shape}")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a covariance takes two clips or more, got {len(first)} and {len(second)}")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    a, b = (a - a.mean(0)) / np.sqrt(len(a) - ddof), (b - b.mean(0)) / np.sqrt(len(b) - ddof)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(shift + np.square(a).sum() + np.square(b).sum() - 2 * cross, 0.0))


def consistent4d_distance(first: np.ndarray, second: np.ndarray) -> float:
    """What Consistent4D's script printed as FVD, of the time-averaged logits [D] of one clip each.

    Up to numpy 2.1, ``np.cov`` of a [1, D] array gave the (unbiased) variance *over the D logits*, a number; the
    Frechet formula then is ``|l1 - l2|^2 + (s1 - s2)^2`` with their standard deviations s1 and s2.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected the logits [D] of one clip each, got {a.shape} and {b.shape}")
    return float(np.square(a - b).sum() + (a.std(ddof=1) - b.std(ddof=1)) ** 2)
