"""Writing meshes: OBJ with material and textures, and plain ones in any format."""

import os

import cv2
import numpy as np

from threestudio.utils.atomic import atomic_file, write_bytes, write_text

__all__ = ["write_mesh", "write_obj", "y_up"]

_TEXTURE_NAMES = {
    "map_Kd": "texture_kd",
    "map_Ks": "texture_ks",
    "map_Bump": "texture_nrm",
    "map_Pm": "texture_metallic",
    "map_Pr": "texture_roughness",
}


def write_obj(
    path: str,
    arrays: dict[str, np.ndarray],
    textures: dict[str, np.ndarray] | None = None,
    map_format: str = "jpg",
    write: bool = True,
) -> list[str]:
    """Write a Wavefront OBJ, and an MTL with its textures beside it when ``textures`` is given.

    Args:
        path: of the ``.obj``.
        arrays: ``v_pos`` [V, 3] and ``t_pos_idx`` [F, 3]; optionally ``v_nrm`` [V, 3], ``v_tex`` [T, 2] with
            ``t_tex_idx`` [F, 3], ``v_rgb`` [V, 3] in [0, 1]. ``v`` is flipped, as OBJ readers expect the first texture
            row at the top.
        textures: MTL keyword (``map_Kd``, ``map_Ks``, ``map_Bump``, ``map_Pm``, ``map_Pr``) to floats [H, W, C] in [0,
            1].
        write: False only computes the paths.

    Returns:
        every path: the textures and the material first, the OBJ last.
    """
    folder, stem = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    paths: list[str] = []
    material = None
    if textures is not None:
        material = f"{stem}.mtl"
        lines = ["newmtl default", "Ka 0.0 0.0 0.0", "Kd 1.0 1.0 1.0", "Ks 0.0 0.0 0.0"]
        for keyword, texture in textures.items():
            file_name = f"{_TEXTURE_NAMES[keyword]}.{map_format}"
            lines.append(f"{keyword} {file_name}")
            paths.append(os.path.join(folder, file_name))
            if write:
                _write_texture(paths[-1], texture)
        paths.append(os.path.join(folder, material))
        if write:
            _write_text(paths[-1], lines)
    if write:
        _write_text(path, _obj_lines(arrays, material))
    return [*paths, path]


def write_mesh(path: str, v_pos: np.ndarray, t_pos_idx: np.ndarray) -> None:
    """Write positions [V, 3] (z up, front towards +x) and triangles [F, 3] in the format of the suffix.

    OBJ and glTF get smooth normals. A glTF file also has y up, as the format defines, and a matt material, as a mesh
    without one is of metal there; other formats keep the frame.
    """
    import trimesh

    gltf = path.endswith((".glb", ".gltf"))
    options = {"include_normals": True} if gltf or path.endswith(".obj") else {}
    mesh = trimesh.Trimesh(y_up(v_pos) if gltf else v_pos, t_pos_idx, process=False)
    if gltf:
        matt = trimesh.visual.material.PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0)
        mesh.visual = trimesh.visual.TextureVisuals(material=matt)
    with atomic_file(path) as partial:
        mesh.export(partial, file_type=os.path.splitext(path)[1][1:], **options)


def y_up(vectors: np.ndarray) -> np.ndarray:
    """``(x, y, z)`` with z up and front towards +x becomes ``(y, z, x)``: y up, front towards +z."""
    return vectors[:, [1, 2, 0]]


def _obj_lines(arrays: dict[str, np.ndarray], material: str | None) -> list[str]:
    lines = [f"mtllib {material}", "g object", "usemtl default"] if material else []
    positions, colors = arrays["v_pos"], arrays.get("v_rgb")
    rows = positions if colors is None else np.concatenate([positions, colors], axis=1)
    lines += ["v " + " ".join(f"{x:.6f}" for x in row) for row in rows]
    if "v_tex" in arrays:
        lines += [f"vt {u:.6f} {1.0 - v:.6f}" for u, v in arrays["v_tex"]]
    if "v_nrm" in arrays:
        lines += ["vn " + " ".join(f"{x:.6f}" for x in row) for row in arrays["v_nrm"]]
    corners = arrays["t_pos_idx"] + 1
    texture_corners = arrays["t_tex_idx"] + 1 if "v_tex" in arrays else None
    for i, face in enumerate(corners):
        words = []
        for j, vertex in enumerate(face):
            uv = str(texture_corners[i, j]) if texture_corners is not None else ""
            normal = str(vertex) if "v_nrm" in arrays else ""
            words.append(f"{vertex}/{uv}/{normal}" if normal else (f"{vertex}/{uv}" if uv else str(vertex)))
        lines.append("f " + " ".join(words))
    return lines


def _write_texture(path: str, texture: np.ndarray) -> None:
    pixels = np.round(np.clip(texture, 0, 1) * 255).astype(np.uint8)
    if pixels.shape[-1] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(os.path.splitext(path)[1], pixels)
    if not encoded:
        raise OSError(f"The texture '{path}' could not be encoded.")
    write_bytes(path, data.tobytes())


def _write_text(path: str, lines: list[str]) -> None:
    write_text(path, "\n".join(lines) + "\n")
