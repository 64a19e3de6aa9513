"""Our YAML files must also be good for upstream threestudio (0.2.3) and its own ``launch.py``.

That program passes the ``trainer`` section to Lightning's ``Trainer`` beside its own arguments, passes ``checkpoint``
to ``ModelCheckpoint``, knows a fixed set of resolvers and top-level keys, and has no default for a missing part.
"""

import inspect
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

CONFIGS = sorted(Path(__file__).resolve().parents[2].joinpath("configs").glob("*.yaml"))

TOP_LEVEL_KEYS = {
    *("name", "description", "tag", "seed", "use_timestamp", "timestamp", "exp_root_dir", "resume"),
    *("data_type", "data", "system_type", "system", "trainer", "checkpoint"),
}
RESOLVERS = {
    *("calc_exp_lr_decay_rate", "add", "sub", "mul", "div", "idiv", "basename", "rmspace"),
    *("gt0", "cmaxgt0", "not", "cmaxgt0orcmaxgt0"),
}
LAUNCHER_ARGUMENTS = {"callbacks", "logger", "inference_mode", "accelerator", "devices"}
UPSTREAM_PARTS = {
    *("no-material", "diffuse-with-point-light-material", "pbr-material", "neural-radiance-material"),
    *("hybrid-rgb-latent-material", "sd-latent-adapter-material"),
    *("solid-color-background", "textured-background", "neural-environment-map-background"),
}
MANDATORY_PARTS = {"geometry_type", "material_type", "background_type", "renderer_type", "exporter_type"}


def parts_of(cfg) -> dict[str, str]:
    """Every ``<part>_type`` of a config with the registered name that it asks for."""
    keys = [("data_type", cfg.data_type), ("system_type", cfg.system_type)]
    return dict(keys + [(key, cfg.system[key]) for key in cfg.system if key.endswith("_type")])


def own_parts(repository: Path) -> set[str]:
    """Names that the extension's sources register."""
    sources = (repository / "custom" / "threestudio_4d").rglob("*.py")
    pattern = re.compile(r'^@(?:threestudio\.)?register\("([^"]+)"\)', re.MULTILINE)
    return {name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8"))}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    return request.param


def test_sections_and_resolvers_are_known_upstream(config):
    assert set(OmegaConf.load(config)) <= TOP_LEVEL_KEYS
    used = set(re.findall(r"\$\{(\w+):", config.read_text(encoding="utf-8")))
    assert used <= RESOLVERS


def test_trainer_and_checkpoint_take_these_arguments(config):
    cfg = OmegaConf.load(config)
    assert not LAUNCHER_ARGUMENTS & set(cfg.trainer), "upstream's launch.py gives these itself"
    assert set(cfg.trainer) <= set(inspect.signature(Trainer.__init__).parameters)
    assert cfg.trainer.get("enable_progress_bar", True), "upstream's launch.py always adds a progress bar"
    assert "dirpath" not in cfg.checkpoint, "upstream's launch.py gives it itself"
    assert set(cfg.checkpoint) <= set(inspect.signature(ModelCheckpoint.__init__).parameters)


def test_every_part_is_ours_or_upstreams(config, repository):
    parts = parts_of(OmegaConf.load(config))
    assert set(parts) >= MANDATORY_PARTS
    assert set(parts.values()) <= own_parts(repository) | UPSTREAM_PARTS
