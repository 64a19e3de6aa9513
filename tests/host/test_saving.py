import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.saving import SaverMixin
from threestudio.utils.video import write_video


@pytest.fixture
def saver(tmp_path):
    mixin = SaverMixin()
    mixin.set_save_dir(str(tmp_path / "save"))
    return mixin


def pixels(path):
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)[..., ::-1]


def test_save_dir_must_be_set(saver, tmp_path):
    with pytest.raises(ValueError, match="not set"):
        SaverMixin().get_save_dir()
    path = saver.get_save_path("a/b/c.txt")
    assert path == str(tmp_path / "save/a/b/c.txt") and (tmp_path / "save/a/b").is_dir()


def test_rgb_images(saver):
    image = torch.zeros(4, 6, 3, dtype=torch.bfloat16, requires_grad=True) + torch.tensor([1.0, 0.5, -3.0])
    found = pixels(saver.save_rgb_image("rgb.png", image))
    assert found.shape == (4, 6, 3) and found[0, 0].tolist() == [255, 127, 0]
    found = pixels(saver.save_rgb_image("chw.png", torch.rand(3, 4, 6), data_format="CHW"))
    assert found.shape == (4, 6, 3)
    found = pixels(saver.save_rgb_image("range.png", np.full((2, 2, 3), 0.0), data_range=(-1, 1)))
    assert found[0, 0].tolist() == [127, 127, 127]
    found = pixels(saver.save_rgb_image("five.png", np.ones((2, 3, 5), np.float32)))
    assert found.shape == (2, 6, 3) and found[0, 5].tolist() == [255, 255, 0]
    found = pixels(saver.save_rgb_image("one.png", np.ones((2, 3, 1), np.float32)))
    assert found[0, 0].tolist() == [255, 0, 0]
    raw = np.random.default_rng(0).integers(0, 255, (2, 3, 3), dtype=np.uint8)
    assert (pixels(saver.save_rgb_image("raw.png", raw)) == raw).all()
    with pytest.raises(ValueError, match="'HWC' or 'CHW', got 'WHC'"):
        saver.save_rgb_image("x.png", raw, data_format="WHC")


@pytest.mark.parametrize("cmap", [None, "jet", "magma", "spectral"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1)])
def test_grayscale_images(saver, cmap, shape):
    ramp = torch.arange(12.0).view(shape)
    found = pixels(saver.save_grayscale_image("gray.png", ramp, cmap=cmap))
    assert found.shape == (3, 4, 3)
    if cmap is None:
        assert found[0, 0, 0] == 0 and found[2, 3, 0] == 255
    flat = pixels(saver.save_grayscale_image("flat.png", torch.ones(shape), cmap=None))
    assert (flat == 0).all()


def test_other_images(saver):
    uv = torch.rand(4, 4, 2)
    assert pixels(saver.save_uv_image("uv.png", uv, cmap="color")).shape == (4, 4, 3)
    assert set(np.unique(pixels(saver.save_uv_image("checker.png", uv)))) <= {0, 255}
    assert pixels(saver.save_cubemap("cube.png", torch.rand(6, 3, 3, 3))).shape == (9, 12, 3)
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, 99
    path = saver.save_image("rgba.png", rgba)
    assert np.asarray(Image.open(path))[0, 0].tolist() == [200, 0, 0, 99]
    with pytest.raises(ValueError, match="uint8 or uint16"):
        saver.save_image("float.png", np.zeros((2, 2, 3)))


def test_image_grid(saver):
    cells = [
        {"type": "rgb", "img": torch.rand(4, 4, 3), "kwargs": {}},
        {"type": "grayscale", "img": torch.rand(8, 8), "kwargs": {"cmap": None, "data_range": (0, 1)}},
        {"type": "uv", "img": torch.rand(4, 4, 2), "kwargs": {}},
    ]
    assert pixels(saver.save_image_grid("row.png", cells)).shape == (8, 24, 3)
    assert pixels(saver.save_image_grid("rows.png", [cells, cells[:1]], align="min", texts=["a"])).shape == (8, 12, 3)
    assert pixels(saver.save_image_grid("size.png", cells, align=(6, 5))).shape == (6, 15, 3)


@pytest.mark.parametrize("size", [(7, 9), (16, 10)])
def test_videos(saver, size):
    for i in (10, 2, 1):
        saver.save_rgb_image(f"frames/{i}.png", np.full((*size, 3), i / 10, np.float32))
    path = saver.save_img_sequence("clip", "frames", r"(\d+)\.png", save_format="mp4", fps=10)
    assert path.endswith("save/clip.mp4")
    with av.open(path) as video:
        stream = video.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in video.decode(stream)]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 10
    assert [round(f.mean() / 25.5) for f in frames] == [1, 2, 10]
    assert frames[0].shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    gif = Image.open(saver.save_img_sequence("clip", "frames", r"(\d+)\.png", save_format="gif", fps=10))
    assert gif.n_frames == 3 and gif.size == size[::-1]


def test_videos_without_frames(saver, tmp_path):
    saver.save_rgb_image("frames/a.png", np.zeros((2, 2, 3)))
    path = saver.save_img_sequence("clip", "frames", r"(\d+)\.png")
    assert not (tmp_path / "save/clip.mp4").exists() and path.endswith("clip.mp4")
    with pytest.raises(FileNotFoundError):
        saver.save_img_sequence("clip", "absent", r"(\d+)\.png")
    sizes = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)]
    with pytest.raises(UserError, match="one size"):
        write_video(str(tmp_path / "x.mp4"), sizes)
    assert not list(tmp_path.glob("x*"))


def test_transparent_frames_are_put_on_white(saver):
    saver.save_image("frames/0.png", np.zeros((4, 4, 4), np.uint8))
    gif = Image.open(saver.save_img_sequence("clip.gif", "frames", r"(\d+)\.png", save_format="gif"))
    assert np.asarray(gif.convert("RGB")).min() == 255


def test_data(saver):
    data = {"a": torch.ones(2), "b": [torch.zeros(1)]}
    with np.load(saver.save_data("data.npz", {"a": data["a"]})) as found:
        assert found["a"].tolist() == [1, 1]
    assert np.load(saver.save_data("array", torch.arange(3))).tolist() == [0, 1, 2]
    assert saver.convert_data(data)["b"][0].tolist() == [0.0]
    with pytest.raises(TypeError, match="got str"):
        saver.convert_data("text")
    path = saver.save_json("x.json", {"k": 1})
    assert json.loads(Path(path).read_text()) == {"k": 1}
    copy = saver.save_file("y.json", path)
    assert Path(copy).read_text() == Path(path).read_text()
    assert torch.load(saver.save_state_dict("s.pt", {"w": torch.ones(1)}), weights_only=True)["w"].item() == 1


def square():
    mesh = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    mesh.set_uv(mesh.v_pos[:, :2], mesh.t_pos_idx)
    mesh.set_vertex_color(torch.rand(4, 3))
    return mesh


def test_obj_with_textures(saver, tmp_path):
    texture = torch.rand(8, 8, 3)
    paths = saver.save_obj(
        "out/model", square(), save_mat=True, save_uv=True, save_normal=True, map_Kd=texture, map_format="png"
    )
    names = [p.removeprefix(str(tmp_path / "save/out") + "/") for p in paths]
    assert names == ["texture_kd.png", "model.mtl", "model.obj"]
    lines = Path(paths[-1]).read_text().splitlines()
    assert "mtllib model.mtl" in lines and "vt 0.000000 1.000000" in lines and "f 1/1/1 2/2/2 3/3/3" in lines
    assert "map_Kd texture_kd.png" in Path(paths[1]).read_text()
    assert np.abs(pixels(paths[0]).astype(int) - texture.numpy() * 255).max() <= 0.51

    import trimesh

    loaded = trimesh.load(paths[-1], process=False)
    assert loaded.vertices.shape == (4, 3) and loaded.visual.uv.shape == (4, 2)


def test_obj_and_ply_with_vertices_only(saver):
    mesh = square()
    [path] = saver.save_obj("plain.obj", mesh, save_vertex_color=True)
    lines = Path(path).read_text().splitlines()
    assert len(lines[0].split()) == 7 and lines[-1] == "f 1 3 4"

    import trimesh

    loaded = trimesh.load(saver.save_mesh("plain.ply", mesh.v_pos, mesh.t_pos_idx))
    assert loaded.faces.shape == (2, 3)


def test_up_of_an_obj(saver):
    mesh = square()
    for up, order in (("z", [0, 1, 2]), ("y", [1, 2, 0])):
        [path] = saver.save_obj("turned.obj", mesh, save_normal=True, up=up)
        rows = [line.split() for line in Path(path).read_text().splitlines()]
        assert [[float(x) for x in row[1:]] for row in rows if row[0] == "v"] == mesh.v_pos[:, order].tolist()
        assert [[float(x) for x in row[1:]] for row in rows if row[0] == "vn"] == mesh.v_nrm[:, order].tolist()


def test_a_glb_has_y_up_normals_and_a_matt_material(saver):
    import trimesh

    mesh = square()
    path = saver.save_mesh("plain.glb", mesh.v_pos, mesh.t_pos_idx)
    [loaded] = trimesh.load_scene(path, process=False).geometry.values()
    assert loaded.vertices.tolist() == mesh.v_pos[:, [1, 2, 0]].tolist()
    assert loaded._cache.cache["vertex_normals"].tolist() == [[0, 1, 0]] * 4
    assert (loaded.visual.material.metallicFactor, loaded.visual.material.roughnessFactor) == (0, 1)


def test_every_process_writes_its_images_and_the_first_the_rest(saver, tmp_path, monkeypatch):
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    path = saver.save_rgb_image("rgb.png", np.zeros((2, 2, 3)))
    assert path.endswith("rgb.png") and [f.name for f in (tmp_path / "save").iterdir()] == ["rgb.png"]
    for path in (saver.save_json("x.json", {}), *saver.save_obj("m.obj", square())):
        assert not Path(path).exists()
