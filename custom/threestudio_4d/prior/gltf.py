"""A reader for binary glTF 2.0: scene graph, primitives, skins and animation clips as numpy arrays.

Only what posing a mesh needs is read: TRS nodes, skins, LINEAR/STEP/CUBICSPLINE channels, resting morph weights, base
colours (factor, vertex colours, texture). Coordinates stay glTF's own (right-handed, y up); ``assets`` turns them z-up.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..srgb import srgb_to_linear

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


@dataclass
class Primitive:
    """Triangles of one material. ``joints``/``weights`` are None for rigid meshes."""

    node: int
    skin: int | None
    positions: np.ndarray  # [V, 3] float64
    normals: np.ndarray | None  # [V, 3]
    faces: np.ndarray  # [F, 3] int64, counter-clockwise in front
    colours: np.ndarray  # [F, 3, 3] linear diffuse albedo per face corner
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


class _Reader:
    """Accessors, images and materials of one opened file."""

    def __init__(self, path: Path):
        data = path.read_bytes()
        if data[:4] != b"glTF" or len(data) < 20:
            raise UserError(f"{path} is not a binary glTF (.glb) file. Export the asset as GLB.")
        length = struct.unpack("<I", data[12:16])[0]
        self.path = path
        self.doc = json.loads(data[20 : 20 + length])
        start = 20 + length
        self.blob = data[start + 8 :] if len(data) > start + 8 else b""
        required = set(self.doc.get("extensionsRequired", [])) - {"KHR_materials_unlit", "KHR_texture_transform"}
        if required:
            raise UserError(f"{path} needs glTF extensions that are not supported: {sorted(required)}. Export without.")
        self.images: dict[int, np.ndarray] = {}

    def view(self, index: int) -> tuple[bytes, int]:
        view = self.doc["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self.blob[start : start + view["byteLength"]], view.get("byteStride", 0)

    def _elements(self, view: int, offset: int, count: int, dtype: np.dtype, width: int) -> np.ndarray:
        raw, stride = self.view(view)
        size = dtype.itemsize * width
        if stride in (0, size):
            return np.frombuffer(raw, dtype, count * width, offset).reshape(count, width)
        return np.ndarray((count, width), dtype, raw, offset, (stride, dtype.itemsize))

    def accessor(self, index: int) -> np.ndarray:
        """[count, width] array; normalised integers become floats."""
        acc = self.doc["accessors"][index]
        dtype, width, count = np.dtype(COMPONENTS[acc["componentType"]]), WIDTHS[acc["type"]], acc["count"]
        if "bufferView" in acc:
            out = self._elements(acc["bufferView"], acc.get("byteOffset", 0), count, dtype, width)
        else:
            out = np.zeros((count, width), dtype)
        if "sparse" in acc:
            sparse, out = acc["sparse"], out.copy()
            where, what = sparse["indices"], sparse["values"]
            kind = np.dtype(COMPONENTS[where["componentType"]])
            rows = self._elements(where["bufferView"], where.get("byteOffset", 0), sparse["count"], kind, 1)[:, 0]
            out[rows] = self._elements(what["bufferView"], what.get("byteOffset", 0), sparse["count"], dtype, width)
        if acc.get("normalized") and dtype.kind in "iu":
            out = np.maximum(out.astype(np.float32) / np.iinfo(dtype).max, -1.0)
        return out

    def image(self, texture: int) -> np.ndarray:
        """Linear RGB texels [H, W, 3] of a texture."""
        from PIL import Image

        source = self.doc["textures"][texture]["source"]
        if source not in self.images:
            entry = self.doc["images"][source]
            if "bufferView" in entry:
                file = io.BytesIO(self.view(entry["bufferView"])[0])
            else:
                file = self.path.parent / entry["uri"]
            with Image.open(file) as image:
                self.images[source] = srgb_to_linear(np.asarray(image.convert("RGB"), np.float32) / 255.0)
        return self.images[source]


def _corner_colours(reader: _Reader, primitive: dict, faces: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """Diffuse albedo per face corner [F, 3, 3], and the material's unlit and double-sided flags.

    Diffuse albedo is base colour times (1 - metalness). Texture samples are taken a little inside each corner,
    so that atlas cells do not bleed into each other.
    """
    material = reader.doc["materials"][primitive["material"]] if "material" in primitive else {}
    pbr = material.get("pbrMetallicRoughness", {})
    unlit = "KHR_materials_unlit" in material.get("extensions", {})
    metal = 0.0 if unlit or not pbr else float(pbr.get("metallicFactor", 1.0))
    if "metallicRoughnessTexture" in pbr:
        metal = min(metal, 0.4)
    colour = np.array(pbr.get("baseColorFactor", [1, 1, 1, 1])[:3], np.float64) * (1.0 - min(metal, 0.9))
    out = np.broadcast_to(colour, (len(faces), 3, 3)).copy()
    attributes = primitive["attributes"]
    if "COLOR_0" in attributes:
        out *= reader.accessor(attributes["COLOR_0"])[:, :3][faces]
    texture = pbr.get("baseColorTexture")
    if texture is not None:
        texels = reader.image(texture["index"])
        uv = reader.accessor(attributes[f"TEXCOORD_{texture.get('texCoord', 0)}"])[faces].astype(np.float64)
        uv = 0.85 * uv + 0.15 * uv.mean(1, keepdims=True)
        height, width = texels.shape[:2]
        column = np.floor((uv[..., 0] % 1.0) * width).astype(int).clip(0, width - 1)
        row = np.floor((uv[..., 1] % 1.0) * height).astype(int).clip(0, height - 1)
        out *= texels[row, column]
    return out, unlit, bool(material.get("doubleSided", False))


def read_glb(path: str | Path) -> Asset:
    """Reads one GLB file.

    Raises:
        UserError: the file is not binary glTF, or needs a compression extension.
    """
    reader = _Reader(Path(path))
    doc = reader.doc
    nodes = doc.get("nodes", [])
    parents = [-1] * len(nodes)
    for i, node in enumerate(nodes):
        for child in node.get("children", []):
            parents[child] = i
    order: list[int] = []
    stack = [i for i, parent in enumerate(parents) if parent < 0]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(nodes[node].get("children", []))

    skins = []
    for skin in doc.get("skins", []):
        joints = np.array(skin["joints"])
        inverse = np.tile(np.eye(4), (len(joints), 1, 1))
        if "inverseBindMatrices" in skin:
            columns = reader.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4)
            inverse = columns.transpose(0, 2, 1).astype(np.float64)
        skins.append((joints, inverse))

    primitives = []
    for i in order:
        node = nodes[i]
        if "mesh" not in node:
            continue
        mesh = doc["meshes"][node["mesh"]]
        for part in mesh["primitives"]:
            if part.get("mode", 4) == 4:
                primitives.append(_read_primitive(reader, part, i, node, mesh))

    clips = []
    for number, animation in enumerate(doc.get("animations", [])):
        channels = []
        for channel in animation["channels"]:
            path_name, node = channel["target"]["path"], channel["target"].get("node")
            if node is None or path_name not in ("translation", "rotation", "scale"):
                continue
            sampler = animation["samplers"][channel["sampler"]]
            times, values = reader.accessor(sampler["input"])[:, 0], reader.accessor(sampler["output"])
            kind = sampler.get("interpolation", "LINEAR")
            if kind == "CUBICSPLINE":
                values = values.reshape(len(times), 3, -1)
            channels.append(Channel(node, path_name, kind, times, values))
        if channels:
            clips.append(Clip(animation.get("name", f"clip{number}"), channels))
    return Asset(primitives, clips, [_rest(node) for node in nodes], parents, order, skins)


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


def _read_primitive(reader: _Reader, part: dict, index: int, node: dict, mesh: dict) -> Primitive:
    attributes = part["attributes"]
    positions = reader.accessor(attributes["POSITION"]).astype(np.float64)
    normals = reader.accessor(attributes["NORMAL"]).astype(np.float64) if "NORMAL" in attributes else None
    morph = node.get("weights", mesh.get("weights", []))
    for weight, target in zip(morph, part.get("targets", []), strict=False):
        if weight and "POSITION" in target:
            positions = positions + weight * reader.accessor(target["POSITION"])
    faces = reader.accessor(part["indices"])[:, 0] if "indices" in part else np.arange(len(positions))
    faces = faces[: len(faces) // 3 * 3].reshape(-1, 3).astype(np.int64)
    colours, unlit, double_sided = _corner_colours(reader, part, faces)
    joints = weights = None
    if "skin" in node and "JOINTS_0" in attributes:
        sets = [k for k in range(4) if f"JOINTS_{k}" in attributes]
        joints = np.concatenate([reader.accessor(attributes[f"JOINTS_{k}"]) for k in sets], 1).astype(np.int64)
        weights = np.concatenate([reader.accessor(attributes[f"WEIGHTS_{k}"]) for k in sets], 1).astype(np.float64)
    skin = node["skin"] if joints is not None else None
    return Primitive(index, skin, positions, normals, faces, colours, joints, weights, unlit, double_sided)
