"""One opened binary glTF file: its document, buffers, accessors, Draco meshes and pictures.

A file may come from anywhere: offsets and counts are checked, and nothing outside of its folder is opened.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from ...errors import UserError
from ...srgb import srgb_to_linear

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
DRACO = "KHR_draco_mesh_compression"
SUPPORTED = {"KHR_materials_unlit", "KHR_texture_transform", DRACO}
PICTURES = ("PNG", "JPEG", "WEBP")
MOST_ELEMENTS = 2**25  # of an accessor, and pixels of a picture: more is a damaged or hostile file
JSON_CHUNK, BIN_CHUNK = 0x4E4F534A, 0x004E4942

# What a document whose parts contradict each other raises while it is read.
DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, struct.error)


class GlbFile:
    """Accessors, images and compressed meshes of one file.

    Raises:
        UserError: it is no regular file, no binary glTF, or needs an extension that is not supported.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path} is not a file")
        data = path.read_bytes()
        if data[:4] != b"glTF" or len(data) < 20:
            raise UserError(f"{path} is not a binary glTF (.glb) file. Export the asset as GLB.")
        self.path = path
        chunks = dict(_chunks(memoryview(data)))
        if JSON_CHUNK not in chunks:
            raise UserError(f"{path} is truncated: it holds {len(data)} bytes and no whole document")
        self.doc = json.loads(bytes(chunks[JSON_CHUNK]))
        self._own_buffer = chunks.get(BIN_CHUNK, memoryview(b""))
        required = set(self.doc.get("extensionsRequired", [])) - SUPPORTED
        if required:
            raise UserError(f"{path} needs glTF extensions that are not supported: {sorted(required)}. Export without.")
        self._buffers: dict[int, memoryview] = {}
        self._images: dict[int, np.ndarray] = {}

    def _open(self, uri: str) -> memoryview:
        """Bytes of an embedded (``data:``) or a neighbouring file."""
        if uri.startswith("data:"):
            return memoryview(base64.b64decode(uri.partition(",")[2]))
        folder = self.path.parent.resolve()
        target = (folder / unquote(uri)).resolve()
        if "://" in uri or not target.is_relative_to(folder):
            raise UserError(f"{self.path} refers to '{uri}', which is outside of its folder; such files are not opened")
        if not target.is_file():
            raise UserError(f"{self.path} refers to '{uri}', which is not there")
        return memoryview(target.read_bytes())

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            uri = self.doc["buffers"][index].get("uri")
            self._buffers[index] = self._own_buffer if uri is None else self._open(uri)
        return self._buffers[index]

    def view(self, index: int) -> tuple[memoryview, int]:
        """Bytes of a buffer view, not copied, and the distance of its elements (0: packed)."""
        view = self.doc["bufferViews"][index]
        buffer, start, length = self._buffer(view["buffer"]), view.get("byteOffset", 0), view["byteLength"]
        if start < 0 or length < 0 or start + length > len(buffer):
            raise UserError(
                f"{self.path} is truncated: buffer view {index} ends at byte {start + length} of {len(buffer)}"
            )
        return buffer[start : start + length], view.get("byteStride", 0)

    def _elements(self, view: int, offset: int, count: int, dtype: np.dtype, width: int) -> np.ndarray:
        raw, stride = self.view(view)
        size = dtype.itemsize * width
        if stride in (0, size):
            return np.frombuffer(raw, dtype, count * width, offset).reshape(count, width)
        return np.ndarray((count, width), dtype, raw, offset, (stride, dtype.itemsize))

    def accessor(self, index: int) -> np.ndarray:
        """[count, width] array, which may share the file's bytes; normalised integers become floats."""
        acc = self.doc["accessors"][index]
        dtype, width, count = np.dtype(COMPONENTS[acc["componentType"]]), WIDTHS[acc["type"]], acc["count"]
        if not 0 < count * width <= MOST_ELEMENTS:
            raise UserError(f"{self.path}: accessor {index} claims {count} elements")
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
        return self._denormalised(out, acc)

    @staticmethod
    def _denormalised(values: np.ndarray, acc: dict) -> np.ndarray:
        if acc.get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1.0)
        return values

    def primitive(self, part: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Attributes by name, [V, width] each, and faces [F, 3] of a primitive of triangles."""
        accessors = dict(part["attributes"])
        values: dict[str, np.ndarray] = {}
        compressed = part.get("extensions", {}).get(DRACO)
        if compressed is not None:
            mesh = self._decode_draco(self.view(compressed["bufferView"])[0])
            for name, number in compressed["attributes"].items():
                stored = mesh.get_attribute_by_unique_id(number)["data"]
                values[name] = self._denormalised(stored, self.doc["accessors"][accessors.pop(name)])
        values |= {name: self.accessor(index) for name, index in accessors.items()}
        count = len(values["POSITION"])
        wrong = [name for name, array in values.items() if len(array) != count]
        if wrong:
            raise UserError(f"{self.path}: {wrong[0]} holds {len(values[wrong[0]])} values for {count} vertices")
        if compressed is not None:
            faces = mesh.faces
        elif "indices" in part:
            faces = self.accessor(part["indices"])[:, 0]
        else:
            faces = np.arange(count)
        faces = faces.reshape(-1)[: faces.size // 3 * 3].reshape(-1, 3).astype(np.int64)
        if faces.size and not 0 <= faces.min() <= faces.max() < count:
            raise UserError(f"{self.path}: a face names vertex {faces.max()} of {count}")
        return values, faces

    def _decode_draco(self, data: memoryview):
        try:
            import DracoPy
        except ImportError as error:
            raise UserError(
                f"{self.path} is compressed with Draco. Install its decoder (pip install DracoPy), or export without."
            ) from error
        try:
            return DracoPy.decode(bytes(data))
        except DracoPy.FileTypeException as error:
            raise UserError(f"{self.path}: its Draco mesh is damaged ({error})") from error

    def image(self, texture: int) -> np.ndarray:
        """Linear RGB texels [H, W, 3] of a texture."""
        from PIL import Image

        source = self.doc["textures"][texture]["source"]
        if source not in self._images:
            entry = self.doc["images"][source]
            data = self.view(entry["bufferView"])[0] if "bufferView" in entry else self._open(entry["uri"])
            try:
                with Image.open(io.BytesIO(data), formats=PICTURES) as image:
                    if image.width * image.height > MOST_ELEMENTS:
                        raise UserError(f"{self.path}: texture {texture} has {image.width} x {image.height} pixels")
                    texels = np.asarray(image.convert("RGB"), np.float32) / 255.0
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise UserError(f"{self.path}: texture {texture} cannot be read ({error})") from error
            self._images[source] = srgb_to_linear(texels)
        return self._images[source]


def _chunks(data: memoryview):
    """Type and bytes of every whole chunk of a GLB file."""
    at = 12
    while at + 8 <= len(data):
        length, kind = struct.unpack_from("<II", data, at)
        if at + 8 + length > len(data):
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length
