"""Every key of every class, tried with values that it cannot mean: refused by name, before anything is built."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union

import pytest
from omegaconf import OmegaConf

import threestudio
import threestudio_4d  # noqa: F401 - registers its classes
from threestudio.utils.check import check_config
from threestudio.utils.config import ExperimentConfig, load_config, parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.overrides import parse_overrides
from threestudio.utils.sections import config_class
from threestudio.utils.trainer_arguments import CHECKPOINT, TRAINER, check_trainer
from threestudio.utils.values import annotations, check_value, section_of

CONFIG = Path(__file__).resolve().parents[2] / "configs/consistent4d.yaml"
#: keys where -1 has a meaning
MINUS_ONE = {
    *("gpuid", "devices", "max_epochs", "max_steps", "num_sanity_val_steps", "save_top_k"),
    *("trainer.fast_dev_run",),
}
#: mappings whose keys belong to somebody else: parts are checked by the class that their type names
FREE = {"data", "system", "trainer", "checkpoint", "optimizer", "scheduler", "geometry_convert_override"}
FREE |= {"pos_encoding_config", "dir_encoding_config", "xatlas_chart_options", "xatlas_pack_options"}


@dataclass
class Outside:
    """What a class of another extension may look like, without any of this project's annotations."""

    rate: float = 1.0
    count: int = 2
    text: str = "x"
    flag: bool = False
    maybe: float | None = None
    pair: tuple[float, float] = (1.0, 2.0)
    numbers: list[int] = field(default_factory=lambda: [1])


def owners() -> dict[str, type]:
    """Every dataclass that a section is checked against, by the name of its class or section."""
    found: dict[str, type] = {"": ExperimentConfig, "outside": Outside}
    for name in threestudio.available():
        fields = config_class(name)
        if fields is not None and threestudio.find(name).__module__.startswith(("threestudio.", "threestudio_4d.")):
            found[name] = fields
    for name, fields in list(found.items()):
        for key, hint in annotations(fields).items():
            if section_of(hint) is not None:
                found[f"{name}.{key}"] = section_of(hint)
    return found


def plain(hint: Any) -> set[Any]:
    """The types that OmegaConf sees: int, float, str, bool, NoneType, ..."""
    if typing.get_origin(hint) is Annotated:
        return plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        return set().union(*map(plain, typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


KEYS = [(name, fields, key, hint) for name, fields in owners().items() for key, hint in annotations(fields).items()]
#: n_gpus is the launcher's own
SCALARS = [row for row in KEYS if plain(row[3]) <= {int, float, str, bool, type(None)} and row[2] != "n_gpus"]


def read(fields: type, key: str, text: str) -> Any:
    """What the launcher makes of ``key=text`` for a section that ``fields`` describes; what else it needs is 1."""
    needed = [f for f in dataclasses.fields(fields) if f.default is f.default_factory is dataclasses.MISSING]
    given = OmegaConf.create({f.name: 1 for f in needed})
    changed = parse_overrides([f"{key}={text}"], OmegaConf.create({}), fields)
    return parse_structured(fields, OmegaConf.merge(given, changed))


def must_be_refused(key: str, hint: Any) -> list[str]:
    """Values that no such key can mean, by its plain type alone."""
    kinds = plain(hint)
    if str in kinds and not kinds & {int, float}:
        return []  # text is taken as it stands
    bad = ["[]", "{}", "{a: 1}", "[fast]", ".nan", ".inf", "-.inf", "1e400", ""]
    bad += [] if type(None) in kinds else ["null"]
    bad += [] if str in kinds else ["fast", "2024_05_01x"]
    bad += ["1.5", "true"] if kinds <= {int, type(None)} else []
    bad += ["7", "maybe"] if kinds <= {bool, type(None)} else []
    bad += ["-1"] if int in kinds and key not in MINUS_ONE | {"count"} else []
    return bad


def test_there_is_enough_to_try():
    assert len(SCALARS) > 200
    assert sum(len(must_be_refused(key, hint)) for _, _, key, hint in SCALARS) > 1000


@pytest.mark.parametrize("name", owners())
def test_scalars_refuse_what_they_cannot_mean(name):
    accepted, unnamed = [], []
    for _, fields, key, hint in (row for row in SCALARS if row[0] == name):
        for text in must_be_refused(key, hint):
            try:
                read(fields, key, text)
                accepted.append(f"{key}={text}")
            except UserError as error:
                if key not in str(error):
                    unnamed.append(f"{key}={text}: {error}")
    assert not accepted and not unnamed


@pytest.mark.parametrize("name", owners())
def test_defaults_are_what_the_annotations_ask_for(name):
    fields = owners()[name]
    for key in annotations(fields):
        default = next(f for f in dataclasses.fields(fields) if f.name == key)
        value = default.default if default.default_factory is dataclasses.MISSING else default.default_factory()
        if value is dataclasses.MISSING:
            continue
        if value != "" and key not in FREE:
            given = list(value) if isinstance(value, tuple) else value
            check_value(key, given, given, annotations(fields)[key])


def test_no_key_is_left_without_a_type():
    loose = {f"{name}.{key}" for name, _, key, hint in KEYS if plain(hint) & {Any, dict} and hint in (Any, dict)}
    sections = {f"{name}.{key}" for name, fields, key, _ in KEYS if f"{key}_type" in annotations(fields)}
    assert {key for key in loose - sections if key.rpartition(".")[2] not in FREE} == set()


@pytest.mark.parametrize("name", [name for name in owners() if name not in ("", "outside")])
def test_files_cannot_put_containers_into_text(name):
    for _, fields, key, hint in (row for row in SCALARS if row[0] == name and str in plain(row[3])):
        for value in ([], {}, True, *([] if type(None) in plain(hint) else [None])):
            with pytest.raises(UserError, match=key):
                parse_structured(fields, OmegaConf.create({key: value}))


@pytest.mark.parametrize(("section", "keys"), [("trainer", TRAINER), ("checkpoint", CHECKPOINT)])
def test_arguments_of_the_trainer(section, keys):
    accepted = []
    for key, hint in keys.items():
        kinds = plain(hint) & {int, float, bool, str}
        bad = [math.nan, math.inf, ["fast"], {"a": "b"}]
        bad += [-5] if kinds & {int, float} else []
        bad += ["fast"] if str not in kinds else []
        for value in bad:
            cfg = OmegaConf.create({"trainer": {}, "checkpoint": {}} | {section: {key: value}})
            try:
                check_trainer(cfg)
                accepted.append((key, value))
            except UserError as error:
                assert section in str(error)
    assert not accepted


@pytest.mark.parametrize(
    "override",
    [
        "system.renderer.num_samples_per_ray=-1",
        "system.guidance.min_step_percent=[0, 0.5, 1.5, 100]",
        "system.guidance.guidance_scale=[1, 2]",
        "system.loss.lambda_rgb=much",
        "system.loss.lambda_rgb=[1, 2]",
        "system.loss.lambda_sds=.nan",
        "system.exporter.threshold=high",
        "system.freq.n_ref=0",
        "system.geometry.mlp_network_config.n_neurons=0",
        "data.random_camera.elevation_range=[0]",
        "data.height=[48, 64, ]x",
        "system.optimizer.nope=1",
        "system.optimizer.name=SGD",
        "system.optimizer.name=Adamm",
        "system.optimizer.args.lr=fast",
        "system.optimizer.args.lr=.inf",
        "system.optimizer.args.lr=-1",
        "system.optimizer.args.betas=[0.9]",
        "system.optimizer.params={geometry: {lr: fast}}",
        "system.scheduler={name: ExponentialLR, args: {gama: 0.9}}",
        "system.scheduler={name: ExponentialLR, args: {gamma: 0.9}, interval: often}",
        "system.loggers.wandb.enabled=true",
        "system.guidance_type=nobody",
        "data.image_seq_path=",
        "seed=",
        "seed=-1",
        "name=",
    ],
)
def test_the_whole_door(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        cfg = load_config(str(CONFIG), cli_args=[override], n_gpus=1)
        check_trainer(cfg)
        check_config(cfg, training=True)
    assert override.partition("=")[0].rpartition(".")[0].split(".")[0] in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_key_that_must_be_given_is_named():
    needs = OmegaConf.create({"anneal_density_blob_std_config": {"start_val": 1}})
    with pytest.raises(UserError, match="anneal_density_blob_std_config.min_anneal_step is missing"):
        parse_structured(config_class("implicit-volume"), needs)


def test_one_key_of_a_network_is_enough():
    cfg = OmegaConf.create({"mlp_network_config": {"n_neurons": 8}})
    widths = threestudio.find("cascade-kplanes")(cfg).density_network[0].weights[0].shape[0]
    host = threestudio.find("implicit-volume")(cfg)
    assert widths == 8 and host.density_network.layers[0].out_features == 8


def test_the_shipped_configs_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in CONFIG.parent.glob("*.yaml"):
        cfg = load_config(str(path), cli_args=["data.image_seq_path=clip"], n_gpus=1)
        check_trainer(cfg)
        check_config(cfg, training=True)
