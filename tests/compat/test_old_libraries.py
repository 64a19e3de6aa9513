"""Library releases of the time of upstream's requirements: diffusers 0.19, transformers 4.28, torch 2.0, Triton 2.0."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from threestudio_4d import versions
from threestudio_4d.diffusion.svd.model import load_svd
from threestudio_4d.diffusion.weights.safe_checkpoint import read_checkpoint
from threestudio_4d.diffusion.zero123 import model as zero123_model
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.errors import UserError
from threestudio_4d.ops.planes import select_backend
from threestudio_4d.tiny_priors.zero123.networks import build_zero123_tiny

WITH_OLD_DIFFUSERS = """
import builtins
import sys

#: what the extension takes from diffusers at import time, and diffusers 0.19 has
OLD = {
    "diffusers": {"AutoencoderKL", "DDIMScheduler", "ModelMixin", "UNet2DConditionModel", "UNet3DConditionModel"},
    "diffusers.configuration_utils": {"ConfigMixin", "register_to_config"},
    "diffusers.models.attention_processor": {"Attention", "AttnProcessor2_0"},
    "diffusers.models.embeddings": {"TimestepEmbedding"},
}
real = builtins.__import__


def as_of_old(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("threestudio_4d") and level == 0 and name.split(".")[0] == "diffusers":
        missing = set(fromlist or ()) - OLD.get(name, set())
        if missing or (name not in OLD):
            raise ImportError(f"{importer}: diffusers 0.19 has no {name}.{', '.join(missing)}")
    return real(name, globals, locals, fromlist, level)


builtins.__import__ = as_of_old
sys.path[:0] = sys.argv[1:]
import threestudio
import threestudio_4d

print(*threestudio.available())
"""


class CountingEncoder(CLIPVisionModelWithProjection):
    """The image encoder as it was up to transformers 4.30: the numbers of the patches are among its weights."""

    _keys_to_ignore_on_load_missing = [r"position_ids"]

    def __init__(self, config) -> None:
        super().__init__(config)
        embeddings = self.vision_model.embeddings
        embeddings.register_buffer("position_ids", embeddings.position_ids, persistent=True)


@pytest.fixture(autouse=True)
def _fresh_answers():
    caches = (versions.memory_mapping, versions.triton_fits)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("int8", [True, False])
def test_position_ids_are_no_weights_of_a_prior(int8, tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": (16, 32, 32), "encoder_width": 32, "encoder_layers": 1}
    saved = build_zero123_tiny(**sizes).eval()
    saved.save(tmp_path / "prior", dtype=torch.float32, int8=int8)

    monkeypatch.setattr(zero123_model, "CLIPVisionModelWithProjection", CountingEncoder)
    loaded = Zero123Model.load(tmp_path / "prior")
    assert isinstance(loaded.image_encoder, CountingEncoder)
    assert set(loaded.state_dict()) == set(saved.state_dict())


def test_the_extension_imports_with_old_diffusers(repository: Path):
    ran = subprocess.run(
        [sys.executable, "-c", WITH_OLD_DIFFUSERS, str(repository / "custom"), str(repository / "extern")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert {"consistent4d-system", "zero123-guidance-t", "svd-guidance", "t2v-guidance"} <= set(ran.stdout.split())


def test_svd_names_the_diffusers_that_it_needs(monkeypatch):
    monkeypatch.setattr(versions, "installed", {"diffusers": "0.19.3"}.get)
    with pytest.raises(UserError, match="Stable Video Diffusion needs diffusers 0.24 or newer, found 0.19.3"):
        load_svd("svd-tiny")


def test_too_old_a_library_is_named_at_import(monkeypatch):
    versions.check_versions()
    monkeypatch.setattr(versions, "installed", {"torch": "1.13.1", "diffusers": "0.19.0"}.get)
    with pytest.raises(ImportError, match="torch 2.0 or newer, found 1.13.1"):
        versions.check_versions()


def test_checkpoints_open_with_a_torch_that_cannot_map_files(monkeypatch, tmp_path, caplog):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(3)}, path)
    load = torch.load

    def load_of_old(f, map_location=None, pickle_module=None, *, weights_only=False, **pickle_load_args):
        assert not pickle_load_args
        return load(f, map_location=map_location, pickle_module=pickle_module, weights_only=weights_only)

    monkeypatch.setattr(torch, "load", load_of_old)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert read_checkpoint(path)["a"].tolist() == [1.0, 1.0, 1.0]
    assert [r.getMessage() for r in caplog.records] == [
        f"torch {torch.__version__} cannot map checkpoints: they are read into memory whole"
    ]


def test_planes_are_looked_up_by_torch_with_old_triton(monkeypatch, caplog):
    language = SimpleNamespace(atomic_add=lambda pointer, val, mask=None, _builder=None: None)
    triton = SimpleNamespace(__version__="2.0.0", language=language)
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.language", language)
    monkeypatch.setattr("threestudio_4d.ops.planes._installed", lambda package: True)
    on_a_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        assert [select_backend("auto", on_a_gpu, 16) for _ in range(2)] == ["torch", "torch"]
    assert len(caplog.records) == 1 and "Triton 2.0.0 is too old" in caplog.text
    with pytest.raises(ValueError, match="Triton 2.1 or newer"):
        select_backend("triton", on_a_gpu, 16)


def test_compiling_is_refused_where_modules_cannot(monkeypatch):
    from threestudio_4d.guidance.zero123_guidance import Zero123GuidanceT

    monkeypatch.delattr(torch.nn.Module, "compile")
    model = build_zero123_tiny(image_size=16, channels=(16, 32, 32), encoder_width=32, encoder_layers=1)
    with pytest.raises(UserError, match="compile_unet needs torch 2.2"):
        Zero123GuidanceT({"compile_unet": True}, model=model)
