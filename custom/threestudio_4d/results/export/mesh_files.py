"""Files of a mesh with coloured vertices, as other programs expect them: binary glTF and OBJ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from threestudio.models.mesh import Mesh
from threestudio.utils.typing import Float, Int

from ...atomic import atomic_file
from ...srgb import srgb_to_linear

UP_AXES = ("y", "z")


@dataclass(frozen=True)
class ColoredMesh:
    """A surface in the world frame: z up, front towards +x."""

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    """Counter-clockwise seen from outside."""
    colors: Float[np.ndarray, "V 3"]
    """sRGB in [0, 1]."""

    def normals(self) -> Float[np.ndarray, "V 3"]:
        """Unit normals that point outwards, smooth across the triangles of a vertex."""
        return vertex_normals(self.vertices, self.faces)


def vertex_normals(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Unit normals: the mean of the adjacent triangles' normals, weighted by area."""
    mesh = Mesh(torch.from_numpy(np.ascontiguousarray(vertices, np.float32)), torch.from_numpy(faces))
    return mesh.v_nrm.numpy()


def z_up_to_y_up(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """World (z up, front towards +x) to glTF (y up, front towards +z): ``(x, y, z)`` becomes ``(y, z, x)``."""
    return points[:, [1, 2, 0]]


def write_obj(path: str | Path, mesh: ColoredMesh, up: str) -> None:
    """Write positions, normals and, behind the positions, sRGB colours.

    Args:
        up: ``y``, as most programs expect of an OBJ, which has no frame of its own (the front is then +z); ``z`` keeps
            the world frame.
    """
    import trimesh

    vertices, normals = mesh.vertices, mesh.normals()
    if up == "y":
        vertices, normals = z_up_to_y_up(vertices), z_up_to_y_up(normals)
    colors = np.round(mesh.colors * 255).astype(np.uint8)
    made = trimesh.Trimesh(vertices, mesh.faces, vertex_normals=normals, vertex_colors=colors, process=False)
    with atomic_file(path) as partial:
        made.export(partial, file_type="obj", digits=5, include_normals=True)


def write_glb(path: str | Path, mesh: ColoredMesh) -> None:
    """Write one primitive with normals, linear vertex colours, as glTF defines ``COLOR_0``, and a matt material.

    Colours are floats: eight bits of linear light would show bands in what is dark.
    """
    import pygltflib as gltf

    columns = {
        "POSITION": z_up_to_y_up(mesh.vertices),
        "NORMAL": z_up_to_y_up(mesh.normals()),
        "COLOR_0": srgb_to_linear(mesh.colors),
    }
    arrays = [np.ascontiguousarray(column, "<f4") for column in columns.values()]
    arrays.append(np.ascontiguousarray(mesh.faces, "<u4"))
    starts = np.cumsum([0, *(array.nbytes for array in arrays)])
    indices = len(columns)

    document = gltf.GLTF2(
        asset=gltf.Asset(generator="threestudio-4d"),
        scene=0,
        scenes=[gltf.Scene(nodes=[0])],
        nodes=[gltf.Node(mesh=0)],
        materials=[gltf.Material(pbrMetallicRoughness=gltf.PbrMetallicRoughness(metallicFactor=0.0))],
        buffers=[gltf.Buffer(byteLength=int(starts[-1]))],
    )
    for k, array in enumerate(arrays):
        target = gltf.ELEMENT_ARRAY_BUFFER if k == indices else gltf.ARRAY_BUFFER
        view = gltf.BufferView(buffer=0, byteOffset=int(starts[k]), byteLength=array.nbytes, target=target)
        document.bufferViews.append(view)
        accessor = gltf.Accessor(bufferView=k, componentType=gltf.FLOAT, count=len(array), type=gltf.VEC3)
        if k == indices:
            accessor = gltf.Accessor(bufferView=k, componentType=gltf.UNSIGNED_INT, count=array.size, type=gltf.SCALAR)
        document.accessors.append(accessor)
    positions = document.accessors[0]
    positions.min, positions.max = arrays[0].min(axis=0).tolist(), arrays[0].max(axis=0).tolist()
    attributes = gltf.Attributes(**{name: k for k, name in enumerate(columns)})
    document.meshes = [gltf.Mesh(primitives=[gltf.Primitive(attributes=attributes, indices=indices, material=0)])]
    document.set_binary_blob(b"".join(array.tobytes() for array in arrays))
    with atomic_file(path) as partial:
        document.save_binary(str(partial))
