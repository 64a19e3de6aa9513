"""A reader for binary glTF 2.0: scene graph, primitives, skins and animation clips as numpy arrays.

Only what posing a mesh needs is read: TRS nodes, skins, LINEAR/STEP/CUBICSPLINE channels, resting morph weights, base
colours (factor, vertex colours, texture). Coordinates stay glTF's own (right-handed, y up); ``assets`` turns them z-up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import UserError
from .gltf_file import DAMAGED, GlbFile


@dataclass
class Primitive:
    """Triangles of one material. ``joints``/``weights`` are None for rigid meshes."""

    node: int
    skin: int | None
    positions: np.ndarray  # [V, 3] float64
    normals: np.ndarray | None  # [V, 3]
    faces: np.ndarray  # [F, 3] int64, counter-clockwise in front
    colours: np.ndarray  # [F, 3, 3] linear base colour per face corner
    joints: np.ndarray | None  # [V, K] index into the skin's joints
    weights: np.ndarray | None  # [V, K]
    unlit: bool = False
    double_sided: bool = False


@dataclass
class Channel:
    """One animated property of one node: ``values`` is [K, C], or [K, 3, C] for cubic splines."""

    node: int
    path: str
    interpolation: str
    times: np.ndarray
    values: np.ndarray


@dataclass
class Clip:
    name: str
    channels: list[Channel]

    @property
    def span(self) -> tuple[float, float]:
        """First and last key time in seconds."""
        return min(float(c.times[0]) for c in self.channels), max(float(c.times[-1]) for c in self.channels)


@dataclass
class Asset:
    primitives: list[Primitive]
    clips: list[Clip]
    rest: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # translation [3], rotation [4] xyzw, scale [3] of every node
    parents: list[int]  # -1 at the roots
    order: list[int]  # parents before children
    skins: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # joint nodes [J], inverse binds [J, 4, 4]

    def node_matrices(self, clip: Clip | None, times: np.ndarray) -> np.ndarray:
        """World matrices [T, N, 4, 4] of all nodes at ``times`` [T] seconds of a clip (None: the resting pose)."""
        count, steps = len(self.rest), len(times)
        translation = np.stack([np.broadcast_to(r[0], (steps, 3)) for r in self.rest], 1).copy()
        rotation = np.stack([np.broadcast_to(r[1], (steps, 4)) for r in self.rest], 1).copy()
        scale = np.stack([np.broadcast_to(r[2], (steps, 3)) for r in self.rest], 1).copy()
        target = {"translation": translation, "rotation": rotation, "scale": scale}
        for channel in clip.channels if clip is not None else []:
            target[channel.path][:, channel.node] = sample_channel(channel, times)
        local = np.zeros((steps, count, 4, 4))
        local[..., :3, :3] = quaternion_matrices(rotation) * scale[..., None, :]
        local[..., :3, 3] = translation
        local[..., 3, 3] = 1.0
        world = np.empty_like(local)
        for node in self.order:
            parent = self.parents[node]
            world[:, node] = local[:, node] if parent < 0 else world[:, parent] @ local[:, node]
        return world


def quaternion_matrices(q: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] in glTF's order x, y, z, w."""
    q = q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-12)
    x, y, z, w = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def sample_channel(channel: Channel, times: np.ndarray) -> np.ndarray:
    """Values [T, C] of a channel, clamped outside its keys as glTF asks."""
    keys, values = channel.times.astype(np.float64), channel.values.astype(np.float64)
    cubic = channel.interpolation == "CUBICSPLINE"
    points = values[:, 1] if cubic else values
    if len(keys) == 1:
        return np.repeat(points[:1], len(times), 0)
    t = np.clip(times, keys[0], keys[-1])
    lower = np.clip(np.searchsorted(keys, t, side="right") - 1, 0, len(keys) - 2)
    step = keys[lower + 1] - keys[lower]
    u = ((t - keys[lower]) / np.maximum(step, 1e-12))[:, None]
    a, b = points[lower], points[lower + 1]
    if channel.interpolation == "STEP":
        return np.where(u >= 1.0, b, a)
    if cubic:
        leaving, arriving = values[lower, 2] * step[:, None], values[lower + 1, 0] * step[:, None]
        u2, u3 = u * u, u * u * u
        return (2 * u3 - 3 * u2 + 1) * a + (u3 - 2 * u2 + u) * leaving + (3 * u2 - 2 * u3) * b + (u3 - u2) * arriving
    if channel.path == "rotation":
        return slerp(a, b, u)
    return a + (b - a) * u


def slerp(a: np.ndarray, b: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Shortest spherical interpolation of quaternions [T, 4] at u [T, 1]."""
    dot = (a * b).sum(-1, keepdims=True)
    b, dot = np.where(dot < 0, -b, b), np.clip(np.abs(dot), 0.0, 1.0)
    angle = np.arccos(dot)
    sine = np.maximum(np.sin(angle), 1e-9)
    near = dot > 0.9995
    return np.where(near, a + (b - a) * u, (np.sin((1 - u) * angle) * a + np.sin(u * angle) * b) / sine)


def _corner_colours(
    file: GlbFile, primitive: dict, values: dict[str, np.ndarray], faces: np.ndarray
) -> tuple[np.ndarray, bool, bool]:
    """Linear base colour per face corner [F, 3, 3], and the material's unlit and double-sided flags.

    Metalness darkens nothing: a metal, too, is seen in its base colour, which tints what it mirrors. Texture samples
    are taken a little inside each corner, so that atlas cells do not bleed into each other.
    """
    material = file.doc["materials"][primitive["material"]] if "material" in primitive else {}
    pbr = material.get("pbrMetallicRoughness", {})
    unlit = "KHR_materials_unlit" in material.get("extensions", {})
    colour = np.array(pbr.get("baseColorFactor", [1, 1, 1, 1])[:3], np.float64)
    out = np.broadcast_to(colour, (len(faces), 3, 3)).copy()
    if "COLOR_0" in values:
        out *= values["COLOR_0"][:, :3][faces]
    texture = pbr.get("baseColorTexture")
    if texture is not None:
        texels = file.image(texture["index"])
        uv = values[f"TEXCOORD_{texture.get('texCoord', 0)}"][faces].astype(np.float64)
        uv = 0.85 * uv + 0.15 * uv.mean(1, keepdims=True)
        height, width = texels.shape[:2]
        column = np.floor((uv[..., 0] % 1.0) * width).astype(int).clip(0, width - 1)
        row = np.floor((uv[..., 1] % 1.0) * height).astype(int).clip(0, height - 1)
        out *= texels[row, column]
    return out, unlit, bool(material.get("doubleSided", False))


def read_glb(path: str | Path) -> Asset:
    """Reads one GLB file.

    Raises:
        UserError: the file cannot be read, is damaged, or refers to files that are missing or outside of its folder.
    """
    try:
        return _read(GlbFile(Path(path)))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _read(file: GlbFile) -> Asset:
    doc = file.doc
    nodes = doc.get("nodes", [])
    parents, order = _hierarchy(nodes)
    skins = []
    for skin in doc.get("skins", []):
        joints = np.array(skin["joints"], np.int64)
        if not len(joints) or not 0 <= joints.min() <= joints.max() < len(nodes):
            raise ValueError(f"a skin names joints that are not among the {len(nodes)} nodes")
        inverse = np.tile(np.eye(4), (len(joints), 1, 1))
        if "inverseBindMatrices" in skin:
            columns = file.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4)[: len(joints)]
            inverse = columns.transpose(0, 2, 1).astype(np.float64)
        if len(inverse) != len(joints):
            raise ValueError(f"a skin has {len(joints)} joints and {len(inverse)} inverse bind matrices")
        skins.append((joints, inverse))

    primitives = []
    for i in order:
        node = nodes[i]
        if "mesh" not in node:
            continue
        mesh = doc["meshes"][node["mesh"]]
        for part in mesh["primitives"]:
            if part.get("mode", 4) == 4:
                primitives.append(_read_primitive(file, part, i, node, mesh, skins))

    clips = []
    for number, animation in enumerate(doc.get("animations", [])):
        channels = []
        for channel in animation["channels"]:
            path_name, node = channel["target"]["path"], channel["target"].get("node")
            if node is not None and path_name in ("translation", "rotation", "scale"):
                channels.append(_read_channel(file, animation["samplers"][channel["sampler"]], nodes, node, path_name))
        if channels:
            clips.append(Clip(str(animation.get("name", f"clip{number}")), channels))
    return Asset(primitives, clips, [_rest(node) for node in nodes], parents, order, skins)


def _hierarchy(nodes: list[dict]) -> tuple[list[int], list[int]]:
    """Parent of every node (-1 at the roots), and an order with parents before children.

    Raises:
        ValueError: a node has two parents, or is below itself.
    """
    parents = [-1] * len(nodes)
    for i, node in enumerate(nodes):
        for child in node.get("children", []):
            if not 0 <= child < len(nodes) or parents[child] >= 0:
                raise ValueError(f"node {child} is no node, or a child twice")
            parents[child] = i
    order: list[int] = []
    stack = [i for i, parent in enumerate(parents) if parent < 0]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(nodes[node].get("children", []))
    if len(order) < len(nodes):
        raise ValueError("its nodes are in a circle")
    return parents, order


def _read_channel(file: GlbFile, sampler: dict, nodes: list[dict], node: int, path: str) -> Channel:
    times, values = file.accessor(sampler["input"])[:, 0], file.accessor(sampler["output"])
    kind = sampler.get("interpolation", "LINEAR")
    if kind == "CUBICSPLINE":
        values = values.reshape(len(times), 3, -1)
    if len(values) != len(times) or values.shape[-1] != (4 if path == "rotation" else 3):
        raise ValueError(f"{path} of node {node} has {len(values)} values for {len(times)} times")
    if not 0 <= node < len(nodes) or not np.isfinite(times).all():
        raise ValueError(f"an animation moves node {node} of {len(nodes)}, or has times that are no numbers")
    return Channel(node, path, kind, times, values)


def _rest(node: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Translation, rotation and scale of a node; a matrix is taken apart (shear is lost)."""
    if "matrix" not in node:
        defaults = (("translation", (0, 0, 0)), ("rotation", (0, 0, 0, 1)), ("scale", (1, 1, 1)))
        return tuple(np.array(node.get(key, value), np.float64) for key, value in defaults)
    from scipy.spatial.transform import Rotation

    matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T
    scale = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.linalg.det(matrix[:3, :3]) < 0:
        scale[0] = -scale[0]
    return matrix[:3, 3], Rotation.from_matrix(matrix[:3, :3] / scale).as_quat(), scale


def _read_primitive(file: GlbFile, part: dict, index: int, node: dict, mesh: dict, skins: list) -> Primitive:
    values, faces = file.primitive(part)
    positions = values["POSITION"].astype(np.float64)
    normals = values["NORMAL"].astype(np.float64) if "NORMAL" in values else None
    morph = node.get("weights", mesh.get("weights", []))
    for weight, target in zip(morph, part.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            positions = positions + weight * file.accessor(target["POSITION"])
    colours, unlit, double_sided = _corner_colours(file, part, values, faces)
    joints = weights = skin = None
    if "skin" in node and "JOINTS_0" in values:
        skin = node["skin"]
        sets = [k for k in range(4) if f"JOINTS_{k}" in values]
        joints = np.concatenate([values[f"JOINTS_{k}"] for k in sets], 1).astype(np.int64)
        weights = np.concatenate([values[f"WEIGHTS_{k}"] for k in sets], 1).astype(np.float64)
        if not 0 <= joints.min() <= joints.max() < len(skins[skin][0]):
            raise ValueError(f"a vertex is moved by joint {joints.max()} of {len(skins[skin][0])}")
    return Primitive(index, skin, positions, normals, faces, colours, joints, weights, unlit, double_sided)
