import pickle
from dataclasses import dataclass, field

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from threestudio.utils.errors import CheckpointError
from threestudio.utils.misc import find_last_path, get_device, load_module_weights, set_device
from threestudio.utils.weights import read_checkpoint


class Evil:
    ran: list = []

    def __reduce__(self):
        return (Evil.ran.append, ("pwned",))


@dataclass
class SomeConfig:
    betas: list = field(default_factory=lambda: [0.9, 0.99])


STATE = {"geometry.a": torch.ones(2), "geometry.b.c": torch.zeros(1, dtype=torch.half), "guidance.d": torch.ones(1)}


def test_module_weights(tmp_path):
    path = str(tmp_path / "a.ckpt")
    torch.save({"state_dict": STATE, "epoch": 2, "global_step": 30, "loops": {}}, path)
    state, epoch, step = load_module_weights(path, module_name="geometry", map_location="cpu")
    assert sorted(state) == ["a", "b.c"] and (epoch, step) == (2, 30)
    state, _, _ = load_module_weights(path, ignore_modules=["geometry"])
    assert sorted(state) == ["guidance.d"]
    with pytest.raises(ValueError, match="not both"):
        load_module_weights(path, module_name="a", ignore_modules=["b"])
    with pytest.raises(CheckpointError, match="'renderer'; it has geometry, guidance"):
        load_module_weights(path, module_name="renderer")
    save_file(STATE, str(tmp_path / "a.safetensors"))
    assert load_module_weights(str(tmp_path / "a.safetensors"), module_name="geometry")[1:] == (0, 0)


def test_config_objects_in_a_foreign_checkpoint_do_no_harm(tmp_path):
    path = str(tmp_path / "old.ckpt")
    cfg = OmegaConf.structured(SomeConfig)
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1, "betas": cfg.betas}]}
    torch.save({"state_dict": STATE, "epoch": 1, "global_step": 7, "optimizer_states": [optimizer]}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_checkpoint(path, map_location="cpu")
    assert found["global_step"] == 7 and sorted(found["state_dict"]) == sorted(STATE)
    assert torch.equal(found["state_dict"]["geometry.a"], STATE["geometry.a"])
    assert found["state_dict"]["geometry.b.c"].dtype == torch.half
    assert found["rest"]["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    path = str(tmp_path / "evil.ckpt")
    torch.save({"state_dict": STATE, "evil": Evil()}, path)
    assert sorted(read_checkpoint(path)["state_dict"]) == sorted(STATE)
    assert Evil.ran == []


def test_files_that_are_no_checkpoints(tmp_path):
    plain, text, cut, empty, listed = (tmp_path / f"{n}.ckpt" for n in ("plain", "text", "cut", "empty", "listed"))
    plain.write_bytes(pickle.dumps({"state_dict": Evil()}))
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save({"state_dict": STATE}, cut)
    cut.write_bytes(cut.read_bytes()[:500])
    empty.write_bytes(b"")
    torch.save([1, 2], listed)
    for path in (plain, text, cut, empty, listed):
        with pytest.raises(CheckpointError, match=path.name):
            read_checkpoint(str(path))
    (tmp_path / "bad.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        read_checkpoint(str(tmp_path / "bad.safetensors"))
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(str(tmp_path / "absent.ckpt"))
    assert Evil.ran == []


def test_find_last_path(tmp_path):
    for name in ("run_a@20240101", "run_a@20240302", "run_b@20250101"):
        (tmp_path / name / "ckpts").mkdir(parents=True)
        (tmp_path / name / "ckpts/last.ckpt").touch()
    found = find_last_path(f"{tmp_path}/run a@LAST/ckpts/last.ckpt")
    assert found == f"{tmp_path}/run_a@20240302/ckpts/last.ckpt"
    assert find_last_path(None) is None and find_last_path(found) == found
    for path in (f"{tmp_path}/run_c@LAST/ckpts/last.ckpt", f"{tmp_path}/absent"):
        with pytest.raises(FileNotFoundError):
            find_last_path(path)


def test_device(monkeypatch):
    set_device("meta")
    assert get_device() == torch.device("meta")
    set_device(None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("RANK", "6")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert get_device() == torch.device("cuda:2")


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.filterwarnings("ignore")
def test_flipped_bits_are_refused_or_do_not_matter(tmp_path):
    """Of the flips that are refused, PyTorch itself would load many as other values: it does not look at checksums."""
    path = tmp_path / "a.ckpt"
    optimizer = {"state": {0: {"exp_avg": torch.arange(40.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"state_dict": STATE, "epoch": 2, "global_step": 30, "optimizer_states": [optimizer]}, path)
    good, wanted = path.read_bytes(), read_checkpoint(str(path))
    refused = 0
    for place in range(0, len(good), 5):
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place // 5) % 8
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(str(path))
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert same(found, wanted), place
    assert refused > len(good) // 5 / 3
