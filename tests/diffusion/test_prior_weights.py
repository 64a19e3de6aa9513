"""Finding weights: every kind of name, what is said when something is missing, and that no pickle ever runs."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from threestudio_4d.diffusion.weights import resolve as pw
from threestudio_4d.diffusion.weights.safe_checkpoint import Placeholder, read_checkpoint, read_state_dict
from threestudio_4d.errors import UserError

PARTS = ("unet", "vae")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working directory with one built-in prior, away from the checkout's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pw, "search_roots", lambda: [tmp_path])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for part in PARTS:
        (tmp_path / "load/priors/zero123-mini" / part).mkdir(parents=True)
    return tmp_path


def test_every_kind_of_name(project):
    built_in = project / "load/priors/zero123-mini"
    assert pw.resolve_prior("zero123-mini", PARTS) == pw.PriorWeights("folder", built_in)
    assert pw.resolve_prior("load/priors/zero123-mini", PARTS).path == built_in
    assert pw.resolve_prior(str(built_in), PARTS).path == built_in
    (project / "some.ckpt").write_bytes(b"x")
    assert pw.resolve_prior("some.ckpt") == pw.PriorWeights("checkpoint", project / "some.ckpt")


def test_the_checkout_is_searched_too(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    assert pw.search_roots() == [tmp_path.resolve(), repository.resolve()]


def test_a_missing_checkpoint_says_where_it_comes_from(project):
    with pytest.raises(UserError) as caught:
        pw.resolve_prior("load/zero123/zero123-xl.ckpt")
    message = str(caught.value)
    assert "no prior weights found for 'load/zero123/zero123-xl.ckpt'" in message
    assert "https://zero123.cs.columbia.edu/assets/zero123-xl.ckpt" in message
    assert "put it at load/zero123/zero123-xl.ckpt" in message
    assert "a built-in prior (zero123-mini; looked in " in message


def test_a_misspelt_built_in_name(project):
    with pytest.raises(UserError, match=r"no prior weights found for 'zero123-minni'. Give a folder .*zero123-mini;"):
        pw.resolve_prior("zero123-minni")
    with pytest.raises(UserError, match="pretrained_model_name_or_path is empty"):
        pw.resolve_prior("  ")


def test_a_hub_id_without_network_fails_at_once(project):
    with pytest.raises(UserError, match=r"'ashawkey/zero123-xl-diffusers' is no local path .* HF_HUB_OFFLINE is set"):
        pw.resolve_prior("ashawkey/zero123-xl-diffusers", PARTS)


def test_a_hub_id_that_cannot_be_downloaded(project, monkeypatch):
    import huggingface_hub

    def unreachable(name, local_files_only=False, **kwargs):
        raise (ValueError if local_files_only else ConnectionError)("no route to host\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UserError, match="downloading it as a hub id failed: no route to host. Check the spelling"):
        pw.resolve_prior("owner/name", PARTS)


def test_a_complete_hub_cache_needs_no_network(project, monkeypatch):
    import huggingface_hub

    snapshot = project / "snapshot"
    for part in PARTS:
        (snapshot / part).mkdir(parents=True)
        (snapshot / part / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    for part in ("scheduler", "tokenizer"):  # parts without weights
        (snapshot / part).mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **kwargs: str(snapshot))
    assert pw.resolve_prior("owner/name", (*PARTS, "scheduler", "tokenizer")).path == snapshot
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        pw.resolve_prior("owner/name", (*PARTS, "feature_extractor"))


def test_a_download_prefers_safetensors_and_takes_pickled_weights_only_where_there_are_none(project, monkeypatch):
    import huggingface_hub

    snapshot, calls = project / "snapshot", []

    def download(name, local_files_only=False, allow_patterns=(), **kwargs):
        if local_files_only:
            raise FileNotFoundError(name)
        calls.append(list(allow_patterns))
        second = "model.bin" if len(calls) == 2 else "config.json"
        for part, weights in (("unet", "model.safetensors"), ("vae", second)):
            (snapshot / part).mkdir(parents=True, exist_ok=True)
            (snapshot / part / weights).write_bytes(b"")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert pw.resolve_prior("owner/name", PARTS).path == snapshot
    assert "unet/*.safetensors" in calls[0] and not any("bin" in pattern for pattern in calls[0])
    assert calls[1:] == [["vae/*.bin"]]


def test_an_incomplete_folder_names_what_it_lacks(project):
    (project / "prior/unet").mkdir(parents=True)
    (project / "prior/zero123-xl.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"it lacks vae/ \(needed: unet, vae\); to use the checkpoint in it, name the"):
        pw.resolve_prior("prior", PARTS)


def test_a_pointer_file_is_recognised(project):
    path = project / "load/priors/zero123-mini/unet/diffusion_pytorch_model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="only a pointer to the weights: run 'git lfs pull'"):
        pw.resolve_prior("zero123-mini", PARTS)


def test_a_file_of_another_kind(project):
    (project / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes.txt is not a checkpoint: expected a file ending in .ckpt"):
        pw.resolve_prior("notes.txt")


class Bomb:
    """Would create a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path):
    target, path = tmp_path / "boom", tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Bomb(target)}))
    with pytest.raises(UserError, match="A plain pickle can run any program when it is loaded, so it is refused"):
        read_state_dict(path)
    assert not target.exists()


def test_code_inside_a_torch_archive_does_not_run(tmp_path):
    target, path = tmp_path / "boom", tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "callbacks": [Bomb(target), print]}, path)
    content = read_checkpoint(path)
    assert not target.exists()
    assert isinstance(content["callbacks"][0], Placeholder)
    assert read_state_dict(path)["w"].tolist() == [0.0, 1.0, 2.0]


class Stateful(dict):
    """An object with attributes, items and slots of its own, as trainers put into checkpoints."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.extra = {2: 3}


def test_foreign_objects_become_placeholders(tmp_path):
    path = tmp_path / "lightning.ckpt"
    foreign = {Stateful: Stateful(), "path": Path("x"), "list": [Stateful(), {1, 2}], "half": torch.ones(2).half()}
    torch.save({"callbacks": foreign, "state_dict": {"w": torch.nn.Parameter(torch.ones(2, 2))}, "epoch": 3}, path)
    content = read_checkpoint(path)
    assert content["epoch"] == 3
    assert content["callbacks"]["half"].dtype == torch.float16
    assert set(read_state_dict(path)) == {"w"}


def test_safe_files_are_read(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "new.ckpt")
    for name in ("a.safetensors", "old.pt", "new.ckpt"):
        assert read_state_dict(tmp_path / name)["w"].tolist() == [1.0, 1.0], name


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("page.ckpt", b"<!DOCTYPE html><html>", "is a web page, not a checkpoint"),
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "only a pointer to the real file"),
        ("short.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a complete safetensors file"),
        ("short.ckpt", b"PK\x03\x04" + bytes(100), "is damaged or cut short"),
        ("empty.ckpt", b"", "is not a checkpoint that can be read safely"),
    ],
)
def test_damaged_files_are_explained(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(tmp_path / name)


def test_an_archive_that_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="x.ckpt is damaged or cut short"):
        read_state_dict(tmp_path / "x.ckpt")
    torch.save({"epoch": 1}, tmp_path / "y.ckpt")
    with pytest.raises(UserError, match="y.ckpt holds no tensors; its keys are epoch"):
        read_state_dict(tmp_path / "y.ckpt")
    torch.save([torch.ones(1)], tmp_path / "z.ckpt")
    with pytest.raises(UserError, match="z.ckpt holds a list, not a dictionary of tensors"):
        read_state_dict(tmp_path / "z.ckpt")
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_state_dict(tmp_path / "absent.ckpt")
