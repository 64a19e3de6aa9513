"""How the object is told from its background; networks are replaced by small stand-ins."""

import sys
import types

import numpy as np
import pytest
from PIL import Image
from scenes_to_prepare import HEIGHT, WIDTH, RedFinder, alphas, composed, iou, rgba, texture

from threestudio_4d.errors import UserError
from threestudio_4d.prepare import background, networks
from threestudio_4d.prepare.background import check_method, choose_method, cut_out, remove_background


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Weights and a runtime seem to be there."""
    path = tmp_path / "u2net.onnx"
    path.write_bytes(b"onnx")
    for module in (networks, background):
        monkeypatch.setattr(module, "u2net_weights", lambda: path)
    monkeypatch.setitem(sys.modules, "onnxruntime", _runtime())
    monkeypatch.setattr(networks, "is_verified", lambda *_: True)
    return path


@pytest.fixture
def no_weights(monkeypatch):
    for module in (networks, background):
        monkeypatch.setattr(module, "u2net_weights", lambda: None)


def _runtime():
    """A module like onnxruntime whose network returns the red channel as it got it, and zeros for the other outputs."""
    module = types.ModuleType("onnxruntime")
    module.__spec__ = types.SimpleNamespace(name="onnxruntime")
    module.seen = []

    class Session:
        def __init__(self, path, options, providers):
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self):
            return [types.SimpleNamespace(name="input.1")]

        def get_outputs(self):
            return [types.SimpleNamespace(name=name) for name in ("1959", "1960")]

        def run(self, names, feed):
            assert names == ["1959"]
            module.seen.append(feed["input.1"])
            return [np.clip(feed["input.1"][:, :1] * 0.229 + 0.485, 0, 1)]

    module.InferenceSession = Session
    module.SessionOptions = lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None)
    module.get_available_providers = lambda: ["CPUExecutionProvider"]
    return module


def test_auto_takes_alpha_then_key_then_u2net(weights):
    assert choose_method(rgba(), "clip") == "alpha"
    opaque = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in composed((255, 255, 255))]
    assert choose_method(opaque, "clip") == "key"
    assert choose_method(composed(texture()), "clip") == "u2net"


def test_auto_says_how_to_get_what_is_missing(no_weights):
    with pytest.raises(
        UserError, match=r"not one plain colour.*fetch its weights \(a download of 165 MB\) with `python"
    ):
        choose_method(composed(texture()), "clip")


@pytest.mark.parametrize("method", ["magic", "rembg:", "", "rembg"])
def test_unknown_methods_are_refused(method):
    with pytest.raises(UserError, match="Allowed: auto, alpha, key, u2net, rembg:<model>, none"):
        check_method(method)


def test_alpha_is_kept_as_it_is():
    frames = rgba()
    cutout = remove_background(frames, "alpha", "clip")
    np.testing.assert_allclose(cutout.alphas[2] * 255, frames[2][..., 3])
    assert not cutout.mixed
    with pytest.raises(UserError, match="no frame has an alpha channel that hides anything"):
        remove_background(composed(texture()), "alpha", "clip")


def test_a_plain_background_is_keyed_out():
    cutout = remove_background(composed((20, 200, 40)), "key", "clip")
    assert cutout.details["key_color"] == [20, 200, 40]
    assert min(iou(a, b) for a, b in zip(cutout.alphas, alphas(), strict=True)) > 0.97
    with pytest.raises(UserError, match="not one plain colour"):
        remove_background(composed(texture()), "key", "clip")
    with pytest.raises(UserError, match="--key-color is 'pinkish'"):
        remove_background(composed(texture()), "key", "clip", key_color="pinkish")


def test_none_leaves_the_background():
    cutout = remove_background(composed(texture()), "none", "clip")
    assert min(alpha.min() for alpha in cutout.alphas) == 1


def test_a_network_looks_closer_at_the_second_time():
    network, seen = RedFinder(), []
    network.looks = []
    cutout = cut_out(network, composed(texture()), "u2net", lambda: seen.append(1))
    assert len(network.looks) == len(seen) == 12
    assert network.looks[0] == (HEIGHT, WIDTH) and network.looks[-1][1] < WIDTH
    assert cutout.mixed and cutout.details == {"looks": 2}
    assert min(iou(a, b) for a, b in zip(cutout.alphas, alphas(), strict=True)) > 0.95


def test_what_the_closer_look_loses_is_put_back():
    class Forgetful(RedFinder):
        def __call__(self, rgb):
            alpha = super().__call__(rgb)
            if rgb.shape[:2] != (HEIGHT, WIDTH):
                alpha[: len(alpha) // 2] = 0
            return alpha

    cutout = cut_out(Forgetful(), composed(texture()), "u2net")
    assert min(iou(a, b) for a, b in zip(cutout.alphas, alphas(), strict=True)) > 0.9


def test_nothing_found_needs_no_second_look():
    network = RedFinder()
    network.looks = []
    cutout = cut_out(network, [np.zeros((40, 40, 3), np.uint8)] * 2, "u2net")
    assert len(network.looks) == 2 and max(alpha.max() for alpha in cutout.alphas) == 0


def test_u2net_gets_normalised_pictures_and_gives_alpha_of_their_size(weights):
    network = networks.U2Net()
    rgb = np.zeros((60, 90, 3), np.uint8)
    rgb[:, 45:, 0] = 200  # the brightest value counts as 1
    alpha = network(rgb)
    given = sys.modules["onnxruntime"].seen[0]
    assert given.shape == (1, 3, 320, 320) and given.dtype == np.float32
    assert given[0, 0].max() == pytest.approx((1 - 0.485) / 0.229)
    assert given[0, 2].min() == given[0, 2].max() == pytest.approx(-0.406 / 0.225)
    assert alpha.shape == (60, 90) and alpha[:, :40].max() < 0.05 and alpha[:, 60:].min() > 0.85


def test_other_weights_are_refused(weights, monkeypatch):
    monkeypatch.setattr(networks, "is_verified", lambda *_: False)
    with pytest.raises(UserError, match="is not the published file of U2-Net.*u2net --force"):
        networks.U2Net()


def test_a_missing_runtime_is_named(weights, monkeypatch):
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--background u2net: install its runtime with `pip install onnxruntime`"):
        networks.U2Net()


def test_rembg_models(monkeypatch):
    fake = types.ModuleType("rembg")

    def new_session(model):
        if model != "isnet":
            raise OSError("cannot reach github.com")
        return model

    def remove(image, session, only_mask):
        assert session == "isnet" and only_mask
        return Image.fromarray(np.asarray(image)[..., 0])

    fake.new_session, fake.remove = new_session, remove
    monkeypatch.setitem(sys.modules, "rembg", fake)
    rgb = np.zeros((8, 10, 3), np.uint8)
    rgb[2:6, 2:6, 0] = 255
    cutout = remove_background([rgb], "rembg:isnet", "clip")
    assert cutout.method == "rembg:isnet" and cutout.alphas[0][3, 3] == 1 and cutout.alphas[0][0, 0] == 0
    with pytest.raises(UserError, match=r"cannot load this model \(cannot reach github.com\)"):
        networks.Rembg("other")
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match=r"needs the package rembg \(pip install 'rembg\[cpu\]'\)"):
        networks.Rembg("isnet")
