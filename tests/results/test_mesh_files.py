"""The files of a coloured mesh as a reader of the formats finds them; ``test_viewers`` judges pictures of them."""

import json

import numpy as np
import pytest
import trimesh
from PIL import ImageColor

from threestudio_4d.results.export.mesh_files import ColoredMesh, write_glb, write_obj


@pytest.fixture
def mesh():
    """A ball that is longer towards the front, in shades of a few named colours."""
    ball = trimesh.creation.icosphere(3, 0.5)
    palette = np.array([ImageColor.getrgb(name) for name in ("orangered", "navy", "white", "black", "seagreen")])
    colors = (palette / 255).astype(np.float32)[np.arange(len(ball.vertices)) % len(palette)]
    return ColoredMesh((ball.vertices * [1.5, 1, 1]).astype(np.float32), np.asarray(ball.faces, np.int64), colors)


def document(path):
    """The JSON part of a GLB."""
    data = path.read_bytes()
    assert data[:4] == b"glTF" and int.from_bytes(data[8:12], "little") == len(data)
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length])


def outward(mesh):
    """Cosine between the normals of a file and the way out, a vertex each, after a check of their lengths."""
    normals = np.asarray(mesh.vertex_normals)
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-4
    return (normals * mesh.vertices).sum(1) / np.linalg.norm(mesh.vertices, axis=1)


def test_a_glb_holds_linear_colours_normals_and_a_matt_material(mesh, tmp_path):
    path = tmp_path / "mesh.glb"
    write_glb(path, mesh)
    [loaded] = trimesh.load_scene(path, process=False).geometry.values()
    np.testing.assert_allclose(loaded.vertices, mesh.vertices[:, [1, 2, 0]], atol=1e-6)  # up is +y, the front is +z
    assert "vertex_normals" in loaded._cache.cache  # of the file, not computed here
    assert outward(loaded).min() > 0.85 and loaded.volume > 0

    linear = np.asarray(loaded.visual.vertex_attributes["color"])[:, :3]
    assert linear.dtype == np.float32  # eight bits of linear light are too few for dark colours
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb, mesh.colors, atol=1e-4)

    found = document(path)
    assert found["materials"][0]["pbrMetallicRoughness"] == {
        "baseColorFactor": [1.0, 1.0, 1.0, 1.0],
        "metallicFactor": 0.0,
        "roughnessFactor": 1.0,
    }
    assert found["asset"]["version"] == "2.0" and found["meshes"][0]["primitives"][0]["material"] == 0
    positions = found["accessors"][found["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose(positions["max"], [0.5, 0.5, 0.75], atol=1e-6)


@pytest.mark.parametrize(("up", "order"), [("y", [1, 2, 0]), ("z", [0, 1, 2])])
def test_an_obj_holds_srgb_colours_and_normals_in_the_frame_asked_for(mesh, tmp_path, up, order):
    path = tmp_path / "mesh.obj"
    write_obj(path, mesh, up)
    words = [line.split() for line in path.read_text().splitlines()]
    vertices = np.array([row[1:] for row in words if row[:1] == ["v"]], float)
    normals = np.array([row[1:] for row in words if row[:1] == ["vn"]], float)
    np.testing.assert_allclose(vertices[:, :3], mesh.vertices[:, order], atol=1e-5)
    np.testing.assert_allclose(vertices[:, 3:], mesh.colors, atol=0.5 / 255 + 1e-5)
    np.testing.assert_allclose(normals, mesh.normals()[:, order], atol=1e-4)
    loaded = trimesh.load(path, force="mesh", process=False)
    assert outward(loaded).min() > 0.85 and loaded.volume > 0


def test_normals_of_a_vertex_without_a_triangle_have_a_length(mesh):
    lonely = ColoredMesh(np.concatenate([mesh.vertices, mesh.vertices[:1]]), mesh.faces, mesh.colors)
    assert np.abs(np.linalg.norm(lonely.normals(), axis=1) - 1).max() < 1e-4
