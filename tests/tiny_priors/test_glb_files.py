"""GLB files that are compressed, damaged or hostile, made here."""

import json
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.assets.gltf import read_glb
from threestudio_4d.tiny_priors.assets.pack import main, pack_assets, read_pack

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)


def triangle():
    """Document and binary chunk of one triangle with texture coordinates."""
    blob = CORNERS.tobytes() + CORNERS[:, :2].tobytes()
    attributes = {"POSITION": 0, "TEXCOORD_0": 1}
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"byteLength": len(blob)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(blob)}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 0, "byteOffset": 36, "componentType": 5126, "count": 3, "type": "VEC2"},
        ],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0}}],
    }
    return document, blob


def write(path, document, blob):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 28 + len(text) + len(blob), len(text), b"JSON")
    path.write_bytes(head + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob)
    return path


def textured(path, uri):
    document, blob = triangle()
    document["images"], document["textures"] = [{"uri": uri}], [{"source": 0}]
    document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    return write(path, document, blob)


def test_accessors_share_their_view(tmp_path):
    document, blob = triangle()
    blob += bytes(1_000_000)
    document["bufferViews"][0]["byteLength"] = document["buffers"][0]["byteLength"] = len(blob)
    document["accessors"].append({"bufferView": 0, "componentType": 5126, "count": 2, "type": "SCALAR"})
    document["accessors"] += [{"bufferView": 0, "componentType": 5126, "count": 2, "type": "VEC3"} for _ in range(200)]
    samplers = [{"input": 2, "output": 3 + k} for k in range(200)]
    channels = [{"sampler": k, "target": {"node": 0, "path": "translation"}} for k in range(200)]
    document["animations"] = [{"samplers": samplers, "channels": channels}]
    path = write(tmp_path / "many.glb", document, blob)
    tracemalloc.start()
    asset = read_glb(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(asset.clips[0].channels) == 200
    assert peak < 10e6  # a copy for each accessor would be 200 MB


def circle(document):
    document["nodes"] = [{"mesh": 0, "children": [1]}, {"children": [0]}]


def doubled(document):
    document["nodes"] = [{"children": [k + 1, k + 1]} for k in range(60)] + [{"mesh": 0}]


def no_such_node(document):
    document["nodes"][0]["children"] = [7]


def far_vertex(document):
    document["accessors"].append({"bufferView": 0, "componentType": 5125, "count": 3, "type": "SCALAR"})
    document["accessors"][-1]["byteOffset"] = 12
    document["meshes"][0]["primitives"][0]["indices"] = 2


def huge_accessor(document):
    document["accessors"][0] = {"componentType": 5126, "count": 2**31, "type": "VEC3"}


def short_buffer(document):
    document["bufferViews"][0]["byteLength"] = 10_000


def no_position(document):
    document["meshes"][0]["primitives"][0]["attributes"] = {}


def wrong_type(document):
    document["nodes"] = {"mesh": 0}


def no_channels(document):
    document["animations"] = [{"samplers": [], "channels": [{"sampler": 3, "target": {"node": 0, "path": "scale"}}]}]


HOSTILE = [circle, doubled, no_such_node, far_vertex, huge_accessor, short_buffer, no_position, wrong_type, no_channels]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("spoil", HOSTILE)
def test_a_file_that_contradicts_itself_is_named(spoil, tmp_path):
    document, blob = triangle()
    spoil(document)
    with pytest.raises(UserError, match="bad.glb"):
        read_glb(write(tmp_path / "bad.glb", document, blob))


OUTSIDE = ["/etc/passwd", "../secret.png", "sub/../../secret.png", "%2e%2e/secret.png", "link.png"]


@pytest.mark.parametrize("uri", OUTSIDE)
def test_nothing_outside_of_the_folder_is_opened(uri, tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    Image.new("RGB", (2, 2), "red").save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="outside of its folder"):
        read_glb(textured(folder / "x.glb", uri))


def test_a_texture_beside_the_file_is_read(tmp_path):
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "a red.png")
    colours = read_glb(textured(tmp_path / "x.glb", "a%20red.png")).primitives[0].colours
    assert np.allclose(colours, [1, 0, 0])


def test_only_pictures_are_textures(tmp_path):
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n")
    with pytest.raises(UserError, match="texture 0 cannot be read"):
        read_glb(textured(tmp_path / "x.glb", "page.png"))


def test_a_pack_leaves_out_what_cannot_be_read_and_says_why(tmp_path, capsys):
    folder = tmp_path / "things"
    folder.mkdir()
    document, blob = triangle()
    whole = write(folder / "good.glb", document, blob).read_bytes()
    (folder / "CAPITALS.GLB").write_bytes(whole)
    textured(folder / "bare.glb", "missing.png")
    (folder / "empty.glb").touch()
    for share in range(1, 6):
        (folder / f"cut{share}.glb").write_bytes(whole[: len(whole) * share // 6])
    circle(document)
    write(folder / "circle.glb", document, blob)
    main([str(folder), "--out", str(tmp_path / "pack.npz")])
    printed = capsys.readouterr().out
    assert "8 files were left out" in printed
    assert "things/bare: " in printed and "refers to 'missing.png', which is not there" in printed
    assert [asset.name for asset in read_pack(tmp_path / "pack.npz")] == ["things/CAPITALS", "things/good"]


def test_draco(tmp_path):
    codec = pytest.importorskip("DracoPy")
    document, _ = triangle()
    blob = codec.encode(
        CORNERS, np.array([[0, 1, 2]], np.uint32), preserve_order=True, generic_attributes={5: CORNERS[:, :2].copy()}
    )
    numbers = {a["name"] or a["attribute_type"]: a["unique_id"] for a in codec.decode(blob).attributes}
    document["buffers"] = [{"byteLength": len(blob)}]
    document["bufferViews"] = [{"buffer": 0, "byteLength": len(blob)}]
    for accessor in document["accessors"]:
        del accessor["bufferView"]
    document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    compressed = {"bufferView": 0, "attributes": {"POSITION": numbers[0], "TEXCOORD_0": 5}}
    document["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": compressed}
    part = read_glb(write(tmp_path / "draco.glb", document, blob)).primitives[0]
    assert np.allclose(part.positions, CORNERS, atol=1e-3) and part.faces.tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match="draco.glb"):
        read_glb(write(tmp_path / "draco.glb", document, bytes(len(blob))))


def test_draco_without_its_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "DracoPy", None)
    document, blob = triangle()
    document["meshes"][0]["primitives"][0]["extensions"] = {
        "KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}
    }
    with pytest.raises(UserError, match="pip install DracoPy"):
        read_glb(write(tmp_path / "draco.glb", document, blob))


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        pack_assets([tmp_path / "none"], tmp_path / "pack.npz")
