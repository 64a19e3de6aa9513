import math

import numpy as np
import pytest
import torch

from threestudio.models.background.solid_color_background import SolidColorBackground
from threestudio.models.exporters.mesh_exporter import MeshExporter
from threestudio.models.exporters.uv_texture import rasterize_uv
from threestudio.models.geometry.base import BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.isosurface import marching_tetrahedra
from threestudio.models.materials.no_material import NoMaterial
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError


class Sphere(BaseImplicitGeometry):
    """Density 2 - |x - centre| / 0.4: the level 1 is a sphere of radius 0.4."""

    centre = torch.tensor([0.1, -0.2, 0.3])

    def forward_field(self, points):
        return 2 - (points - self.centre).norm(dim=-1, keepdim=True) / 0.4, None

    def forward_level(self, field, threshold):
        return -(field - threshold)

    def export(self, points, **kwargs):
        return {"features": points}


def sphere(**cfg):
    cfg = {"isosurface_method": "mc-cpu", "isosurface_resolution": 32, "isosurface_threshold": 1.0, **cfg}
    return Sphere(cfg)


def signed_volume(mesh):
    a, b, c = mesh.v_pos[mesh.t_pos_idx].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("chunk", [0, 1000])
def test_marching_cubes_finds_the_sphere(fine, chunk):
    mesh = sphere(isosurface_coarse_to_fine=fine, isosurface_chunk=chunk).isosurface()
    radius = (mesh.v_pos - Sphere.centre).norm(dim=1)
    assert radius.sub(0.4).abs().max() < (0.003 if fine else 0.01)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)  # positive: faces point outwards
    outward = (mesh.v_nrm * (mesh.v_pos - Sphere.centre) / radius[:, None]).sum(1)
    assert outward.min() > 0.95


def kuhn_grid(n):
    """Vertices of an n^3 grid in [0, 1] and six tetrahedra for each of its cubes."""
    axis = torch.arange(n)
    index = (axis[:, None, None] * n + axis[None, :, None]) * n + axis
    steps = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    stride = torch.tensor([n * n, n, 1])
    base = index[:-1, :-1, :-1].reshape(-1, 1, 1)
    path = torch.cat([torch.zeros(6, 1, dtype=torch.long), stride[steps].cumsum(1)], dim=1)
    vertices = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) / (n - 1)
    return vertices, (base + path).reshape(-1, 4)


def test_marching_tetrahedra_is_closed_and_differentiable():
    vertices, tets = kuhn_grid(16)
    level = ((vertices - 0.5).norm(dim=1) - 0.31).requires_grad_()
    v_pos, faces = marching_tetrahedra(vertices, level, tets)
    mesh = Mesh(v_pos, faces)
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.31**3, rel=0.03)
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = {tuple(e) for e in directed.tolist()}
    assert len(forward) == len(directed) and all((b, a) in forward for a, b in forward)
    (v_pos - 0.5).norm(dim=1).mean().backward()
    assert torch.isfinite(level.grad).all() and level.grad.sum() < 0


def test_marching_tetrahedra_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="needs the grid file 'load/tets/8_tets.npz'.*mc-cpu"):
        sphere(isosurface_method="mt", isosurface_resolution=8).isosurface()
    vertices, tets = kuhn_grid(9)
    (tmp_path / "load/tets").mkdir(parents=True)
    np.savez(tmp_path / "load/tets/8_tets.npz", vertices=vertices.numpy(), indices=tets.numpy())
    mesh = sphere(isosurface_method="mt", isosurface_resolution=8).isosurface()
    assert (mesh.v_pos - Sphere.centre).norm(dim=1).sub(0.4).abs().max() < 0.02
    assert signed_volume(mesh) > 0


def test_messages():
    with pytest.raises(UserError, match="The isosurface is empty at threshold 5.0: lower isosurface_threshold"):
        sphere(isosurface_threshold=5.0).isosurface()
    with pytest.raises(UserError, match="up is 'x': it must be one of y, z"):
        MeshExporter({"up": "x"}, geometry=None, material=None, background=None)
    with pytest.raises(UserError, match="'mc': it must be one of mt, mc-cpu"):
        sphere(isosurface_method="mc").isosurface()
    with pytest.raises(TypeError, match="cannot be made from Sphere"):
        ImplicitVolume.create_from(sphere())


def test_automatic_threshold():
    mesh = sphere(isosurface_threshold="auto").isosurface()
    assert len(mesh.v_pos) > 100


def test_contraction():
    bbox = torch.tensor([[-2.0] * 3, [2.0] * 3])
    points = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [-2.0, 0, 0], [4.0, 0, 0], [2e6, 0, 0]])
    assert contract_to_unisphere(points[:3], bbox)[:, 0].tolist() == [0.5, 1.0, 0.0]
    contracted = contract_to_unisphere(points, bbox, unbounded=True)[:, 0]
    assert contracted.tolist() == pytest.approx([0.5, 0.75, 0.25, 0.875, 1.0], abs=1e-5)


def test_state_has_the_box():
    assert sphere(radius=2.0).state_dict()["bbox"].tolist() == [[-2.0] * 3, [2.0] * 3]


@pytest.mark.parametrize("normal_type", ["finite_difference", "finite_difference_laplacian", "analytic", "pred"])
def test_implicit_volume(normal_type):
    volume = ImplicitVolume({"normal_type": normal_type, "density_activation": "softplus"})
    points = torch.rand(4, 5, 3) - 0.5
    out = volume(points, output_normal=True)
    assert out["density"].shape == (4, 5, 1) and out["features"].shape == (4, 5, 3)
    assert torch.allclose(out["normal"].norm(dim=-1), torch.ones(4, 5), atol=1e-4)
    assert torch.allclose(volume.forward_density(points), out["density"], atol=1e-6)
    with torch.no_grad():
        assert volume(points.clone(), output_normal=True)["shading_normal"].shape == (4, 5, 3)


def test_outliers_are_removed():
    big = sphere().isosurface()
    small = torch.tensor([[2.0, 0, 0], [3, 0, 0], [2, 1, 0]])
    both = Mesh(torch.cat([big.v_pos, small]), torch.cat([big.t_pos_idx, torch.tensor([[0, 1, 2]]) + len(big.v_pos)]))
    for threshold in (0.01, 5):
        cleaned = both.remove_outlier(threshold)
        assert len(cleaned.v_pos) == len(big.v_pos) and torch.equal(cleaned.t_pos_idx, big.t_pos_idx)


def test_derived_quantities_of_a_mesh():
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert mesh.v_nrm.tolist() == [[0, 0, 1]] * 4 and mesh.edges.shape == (5, 2)
    assert mesh.normal_consistency() == 0 and mesh.laplacian() > 0
    mesh.set_uv(mesh.v_pos[:, :2], mesh.t_pos_idx)
    assert torch.allclose(mesh.v_tng, torch.tensor([[1.0, 0, 0]] * 4))
    three = Mesh(torch.rand(5, 3), torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]))
    assert torch.allclose(three.v_nrm.norm(dim=1), torch.ones(5), atol=1e-5)


def test_export_with_baked_texture():
    geometry = sphere(isosurface_resolution=16)
    material = NoMaterial({"color_activation": "none"})
    exporter = MeshExporter(
        {"texture_size": 128, "context_type": "cuda"},
        geometry=geometry,
        material=material,
        background=SolidColorBackground({}),
    )
    [output] = exporter()
    mesh, texture = output.params["mesh"], output.params["map_Kd"]
    assert output.params["up"] == "y" and output.params["save_normal"]
    assert (output.save_name, output.save_type) == ("model.obj", "obj") and texture.shape == (128, 128, 3)
    positions, mask = rasterize_uv(mesh, 128)
    assert 0.3 < mask.float().mean() < 1
    assert ((positions[mask] - Sphere.centre).norm(dim=1) - 0.4).abs().max() < 0.03
    assert torch.allclose(texture[mask], positions[mask].clamp(0, 1), atol=1e-6)
    # texel of a corner: v grows with the row
    corner = mesh.v_tex[mesh.t_tex_idx[0]].mean(0)
    row, column = (corner.flip(0) * 128).long().tolist()
    assert (positions[row, column] - mesh.v_pos[mesh.t_pos_idx[0]].mean(0)).norm() < 0.05
