"""The procedural creature: a seamless, closed, moving loop in the benchmark's frame."""

import numpy as np
import pytest
from PIL import Image

from threestudio_4d.tiny_priors.assets.creature import VIEWS, creature, main


@pytest.fixture(scope="module")
def loop():
    return creature(16)


def test_it_fits_the_benchmarks_sphere(loop):
    vertices, faces, colours = loop
    assert np.linalg.norm(vertices, axis=-1).max() == pytest.approx(0.72, abs=1e-5)
    assert faces.max() < vertices.shape[1] == len(colours) and np.isfinite(vertices).all()
    assert colours.min() >= 0 and colours.max() <= 1


def test_it_loops_and_moves(loop):
    vertices, _, _ = loop
    steps = np.linalg.norm(np.roll(vertices, -1, 0) - vertices, axis=-1).max(1)
    assert steps[-1] < 1.5 * np.median(steps)  # the step from the last frame to the first is like the others
    assert np.linalg.norm(vertices[8] - vertices[0], axis=-1).max() > 0.15
    assert np.allclose(creature(32)[0][::2], vertices, atol=0.02)


def test_its_faces_look_outwards(loop):
    vertices, faces, _ = loop
    a, b, c = (vertices[0][faces[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume > 0.05


def test_the_command_writes_the_benchmarks_layout(tmp_path):
    main([str(tmp_path / "clip"), "--frames", "4", "--size", "32"])
    main([str(tmp_path / "bench"), "--frames", "4", "--size", "32", "--views"])
    assert sorted(p.name for p in (tmp_path / "bench").iterdir()) == sorted(VIEWS)
    frames = [np.asarray(Image.open(tmp_path / "clip" / f"{i}.png")) for i in range(4)]
    assert all(f.shape == (32, 32, 4) and f[..., 3].max() == 255 and f[0, 0, 3] == 0 for f in frames)
    assert np.array_equal(frames[2], np.asarray(Image.open(tmp_path / "bench" / "ref" / "2.png")))
    assert not np.array_equal(frames[0], frames[2])
