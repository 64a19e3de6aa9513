"""Surfaces of analytic density fields."""

import numpy as np
import pytest

from threestudio_4d.errors import UserError
from threestudio_4d.results.export.isosurface import (
    DensityGrid,
    fill_voids,
    marching_cubes,
    remove_small_parts,
    signed_volume,
    silhouette_threshold,
)


def ball(radius, density=50.0, softness=0.01, center=(0.0, 0.0, 0.0)):
    def value(points):
        distance = np.linalg.norm(points - np.asarray(center), axis=-1)
        return density / (1 + np.exp((distance - radius) / softness))

    return value


def sample(field, resolution=64):
    return DensityGrid.sample(field, -np.ones(3), np.ones(3), resolution)


def test_ball_has_its_volume_and_faces_outwards():
    grid = sample(ball(0.5))
    vertices, faces = marching_cubes(grid, 25.0)
    assert np.linalg.norm(vertices, axis=-1) == pytest.approx(np.full(len(vertices), 0.5), abs=0.02)
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.03)


def test_hollow_objects_become_solid():
    shell = sample(lambda points: ball(0.5)(points) - ball(0.3)(points))
    vertices, faces = marching_cubes(shell, 25.0)
    assert np.linalg.norm(vertices, axis=-1).min() < 0.35
    vertices, faces = marching_cubes(fill_voids(shell, 25.0), 25.0)
    assert np.linalg.norm(vertices, axis=-1).min() > 0.45
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.03)


def test_surface_cut_by_the_box_is_closed():
    vertices, faces = marching_cubes(sample(ball(0.5, center=(1.0, 0.0, 0.0))), 25.0)
    assert signed_volume(vertices, faces) == pytest.approx(2 / 3 * np.pi * 0.5**3, rel=0.1)
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


@pytest.mark.parametrize("density", [20.0, 200.0])
@pytest.mark.parametrize("softness", [0.01, 0.05])
def test_silhouette_threshold_finds_the_visible_outline(density, softness):
    grid = sample(ball(0.5, density, softness))
    threshold = silhouette_threshold(grid)
    solid, opaque = (grid.values > threshold).any(0), grid.values.sum(0) * grid.spacing > np.log(2)
    assert (solid & opaque).sum() / (solid | opaque).sum() > 0.95


def test_silhouette_threshold_ignores_mist_and_reports_transparency():
    mist = sample(lambda points: ball(0.4)(points) + 0.05)
    vertices, _ = marching_cubes(mist, silhouette_threshold(mist))
    assert np.linalg.norm(vertices, axis=-1).max() < 0.5
    assert silhouette_threshold(sample(lambda points: np.full(len(points), 0.01))) is None


def test_bounds_and_small_parts():
    def two(points):
        return np.maximum(ball(0.4)(points), ball(0.06, center=(0.8, 0.8, 0.8))(points))

    grid = sample(two)
    lower, upper = grid.bounds_above(25.0)
    assert upper.max() > 0.8 and lower.min() < -0.4
    assert grid.bounds_above(1e6) is None
    everything = marching_cubes(grid, 25.0)
    vertices, faces = remove_small_parts(*everything, fraction=0.2)
    assert 0 < len(faces) < len(everything[1])
    assert np.abs(vertices).max() < 0.45 and faces.max() == len(vertices) - 1
    assert len(remove_small_parts(*everything, fraction=0.0)[1]) == len(everything[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_densities_that_are_not_finite_are_refused(value):
    def density(points):
        return np.where(points[:, 0] > 0.9, value, 1.0)

    with pytest.raises(UserError, match="100 of 1000 densities of the field are NaN or infinite"):
        DensityGrid.sample(density, np.full(3, -1.0), np.full(3, 1.0), 10)
