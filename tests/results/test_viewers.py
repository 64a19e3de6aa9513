"""Exported files as three.js shows them, against the project's own picture of the same view."""

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from pebble import parts
from viewer import Shot, draw, find_browser, find_three

from threestudio.models.exporters.mesh_exporter import MeshExporter
from threestudio.utils.saving import SaverMixin
from threestudio_4d.cameras.sphere import camera_positions, camera_rays, look_at
from threestudio_4d.renderer.volume.dynerf_volume_renderer import DyNeRFVolumeRenderer
from threestudio_4d.results.export.mesh_sequence import MeshSequenceExporter

SIZE, FOVY, DISTANCE = 128, 49.1, 2.0
BORDER, NEIGHBOURHOOD = np.ones((5, 5), np.uint8), np.ones((9, 9), np.uint8)  # pixels
VIEWS = ((0.0, 0.0), (15.0, 100.0), (50.0, -130.0))  # elevation, azimuth
COLORED = ("mesh_000.glb", "mesh_000.obj", "z-up-mesh_000.obj", "textured.obj", "colored.obj", "z-up-colored.obj")
FILES = (*COLORED, "plain.glb")
MATERIALS = {"textured.obj": "textured.mtl"}


@dataclass
class View:
    """The project's own picture: ``colors [size, size, 3]`` in [0, 1], unit ``normals`` in the camera's frame."""

    colors: np.ndarray
    normals: np.ndarray
    opacity: np.ndarray


def own_views():
    renderer = DyNeRFVolumeRenderer({"num_samples_per_ray": 500}, **parts())
    renderer.train().update_step(0, 0)  # finds the cells that are not empty
    renderer.eval()
    elevation, azimuth = torch.tensor(VIEWS).T
    c2w = look_at(camera_positions(elevation, azimuth, torch.full_like(azimuth, DISTANCE)))
    rays_o, rays_d = camera_rays(c2w, torch.deg2rad(torch.full_like(azimuth, FOVY)), SIZE, SIZE)
    with torch.no_grad():
        out = renderer(rays_o, rays_d, torch.zeros(len(VIEWS), 1))
    normals = (out["comp_normal"] / out["opacity"].clamp(min=1e-6) * 2 - 1) @ c2w[:, None, :3, :3]
    columns = (out["comp_rgb"], normals, out["opacity"][..., 0])
    return [View(*(x.numpy() for x in view)) for view in zip(*columns, strict=True)]


def export_all(folder):
    """Write ``FILES`` with both exporters, as a system does, and by ``save_mesh``."""
    saver = SaverMixin()
    saver.set_save_dir(str(folder))

    def write(exporter, prefix=""):
        for output in exporter():
            getattr(saver, f"save_{output.save_type}")(prefix + output.save_name, **output.params)

    write(MeshSequenceExporter({"times": [0.0], "resolution": 96}, **parts()))
    write(MeshSequenceExporter({"times": [0.0], "resolution": 80, "formats": ["obj"], "up": "z"}, **parts()), "z-up-")
    surface = {"isosurface_method": "mc-cpu", "isosurface_threshold": 20.0}
    coarse, fine = (parts(**surface, isosurface_resolution=resolution) for resolution in (24, 48))
    textured = {"save_name": "textured", "texture_format": "png", "texture_size": 128}
    write(MeshExporter(textured, **coarse))
    for axis, name in (("y", "colored"), ("z", "z-up-colored")):
        write(MeshExporter({"fmt": "obj", "save_name": name, "save_uv": False, "up": axis}, **fine))
    mesh = fine["geometry"].isosurface()
    saver.save_mesh("plain.glb", mesh.v_pos, mesh.t_pos_idx)


def shot(file, what, elevation, azimuth):
    """The project's camera in the frame of the file: the front, azimuth 0, is +z where y is up."""
    x, y, z = camera_positions(torch.tensor([elevation]), torch.tensor([azimuth]), torch.tensor([DISTANCE]))[0].tolist()
    position, up = ((x, y, z), (0, 0, 1)) if file.startswith("z-up") else ((y, z, x), (0, 1, 0))
    return Shot(file, what, position, up, FOVY, MATERIALS.get(file, ""))


def interior(alpha, opacity):
    """Pixels whose neighbourhood is solid in both pictures."""
    return cv2.erode(((alpha == 255) & (opacity > 0.999)).astype(np.uint8), BORDER).astype(bool)


def flat(colors):
    """Pixels whose neighbourhood has one colour, so that a texel to and fro does not matter."""
    return (cv2.dilate(colors, NEIGHBOURHOOD) - cv2.erode(colors, NEIGHBOURHOOD)).max(-1) < 2 / 255


def check_colors(name, picture, view):
    """Upright, of one size, turned alike, and of the same colours."""
    solid, own_solid = picture[..., 3] > 127, view.opacity > 0.5
    assert (solid & own_solid).sum() / (solid | own_solid).sum() > 0.93, name
    inside = interior(picture[..., 3], view.opacity)
    judged = inside & flat(view.colors)
    assert judged.sum() > 0.25 * inside.sum() > 600, name
    assert np.abs(picture[judged][:, :3] - 255 * view.colors[judged]).max() <= 2, name


def check_normals(name, picture, view):
    """Of unit length, smooth, and outwards."""
    inside = interior(picture[..., 3], view.opacity)
    seen = picture[inside][:, :3] / 255 * 2 - 1
    assert inside.sum() > 2000 and np.abs(np.linalg.norm(seen, axis=1) - 1).max() < 0.02, name
    assert (seen * view.normals[inside]).sum(1).min() > 0.85, name


def check_material(name, material):
    assert material["flatShading"] is False, name
    if name.endswith(".glb"):
        assert material["metalness"] == 0 and material["roughness"] == 1, name


@pytest.mark.slow
def test_another_program_shows_what_the_project_shows(tmp_path):
    # One test: all pictures come from one start of the browser.
    find_three(), find_browser()
    export_all(tmp_path)
    jobs = [(file, what, k) for file in FILES for what in ("colors", "normals") for k in range(len(VIEWS))]
    drawn = draw(tmp_path, [shot(file, what, *VIEWS[k]) for file, what, k in jobs], SIZE)
    views = own_views()
    for (file, what, k), (picture, material) in zip(jobs, drawn, strict=True):
        check_material(file, material)
        if what == "normals":
            check_normals(f"{file}, view {k}", picture, views[k])
        elif file in COLORED:
            check_colors(f"{file}, view {k}", picture, views[k])
