import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, MissingMandatoryValue, ValidationError

from threestudio.utils.config import (
    C_max,
    ExperimentConfig,
    config_to_primitive,
    dump_config,
    load_config,
    parse_structured,
)
from threestudio.utils.errors import UserError


@dataclass
class Part:
    rate: float = 1.0
    count: int = 2
    text: str = "x"
    maybe: float | None = None
    either: float | str = 1.0
    flag: bool = False
    pair: tuple[float, float] = (1.0, 2.0)
    numbers: list[int] = field(default_factory=lambda: [1])
    options: dict = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize(
    "given, key, expected",
    [
        ({"rate": 3}, "rate", 3.0),
        ({"rate": "1e-3"}, "rate", 1e-3),
        ({"flag": "true"}, "flag", True),
        ({"text": 5}, "text", "5"),
        ({"maybe": None}, "maybe", None),
        ({"either": "auto"}, "either", "auto"),
    ],
)
def test_scalars_are_converted(given, key, expected):
    value = parse_structured(Part, given)[key]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    "given",
    [{"count": 3.0}, {"count": 2.5}, {"rate": None}, {"rate": "fast"}, {"either": 1}, {"rate": [1, 2, 3]}],
)
def test_what_does_not_fit_is_rejected(given):
    with pytest.raises(ValidationError) as caught:
        parse_structured(Part, given)
    assert isinstance(caught.value, UserError)


def test_a_plain_number_also_takes_a_schedule():
    cfg = OmegaConf.create({"rate": [1000, 0.98, 0.5, 1001]})
    assert list(parse_structured(Part, cfg).rate) == [1000, 0.98, 0.5, 1001]


@pytest.mark.parametrize(
    "given", [{"rate": [1, 2]}, {"rate": {}}, {"text": {"a": 1}}, {"text": True}, {"pair": [1, 2, 3]}, {"flag": 2}]
)
def test_containers_are_checked_too(given):
    with pytest.raises(ValidationError) as caught:
        parse_structured(Part, OmegaConf.create(given))
    assert f"{next(iter(given))} is " in str(caught.value)


def test_access_to_the_result():
    parsed = parse_structured(Part, OmegaConf.create({"options": {"a": 1}}))
    assert parsed.get("undeclared", 7) == 7 and not hasattr(parsed, "undeclared")
    with pytest.raises(ConfigAttributeError):
        parsed.undeclared = 1
    with pytest.raises(ValidationError):
        parsed.count = "many"
    parsed.options.b = 2
    assert parsed.options == {"a": 1, "b": 2}
    with pytest.raises(AttributeError):
        _ = parsed.options.c


def test_none_is_no_config():
    with pytest.raises(TypeError, match="not NoneType"):
        parse_structured(Part, None)


def test_unknown_key_is_a_type_error_with_the_full_path():
    root = OmegaConf.create({"system": {"geometry": {"raidus": 1, "rate": 2}}})
    with pytest.raises(TypeError) as caught:
        parse_structured(Part, root.system.geometry)
    assert isinstance(caught.value, UserError)
    assert str(caught.value) == (
        "Unknown config key 'system.geometry.raidus' (unexpected keyword argument for Part). "
        "Valid keys: anything, count, either, flag, maybe, numbers, options, pair, rate, text."
    )
    with pytest.raises(TypeError, match=r"Did you mean 'count'\?"):
        parse_structured(Part, {"coutn": 1})


def test_paths_survive_nested_parsing():
    @dataclass
    class System:
        geometry: dict = field(default_factory=dict)

    @dataclass
    class Root:
        system: dict = field(default_factory=dict)

    root = parse_structured(Root, OmegaConf.create({"system": {"geometry": {"rate": "fast"}}}))
    system = parse_structured(System, root.system)
    with pytest.raises(ValidationError) as caught:
        parse_structured(Part, system.geometry)
    message = str(caught.value)
    assert message == "system.geometry.rate is 'fast': it must be a number."


def test_missing_value_names_its_key():
    with pytest.raises(MissingMandatoryValue) as caught:
        parse_structured(Part, OmegaConf.create({"system": {"rate": "???"}}).system)
    assert str(caught.value) == (
        "system.rate has no value yet ('???'): give it in the YAML file or on the command line (system.rate=...)."
    )


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("${calc_exp_lr_decay_rate:0.25,2}", 0.5),
        ("${add:1,2}", 3),
        ("${sub:1,2}", -1),
        ("${mul:3,2}", 6),
        ("${div:3,2}", 1.5),
        ("${idiv:3,2}", 1),
        ("${basename:a/b/c.png}", "c.png"),
        ("${rmspace:a b c,_}", "a_b_c"),
        ("${gt0:3}", True),
        ("${not:true}", False),
        ("${cmaxgt0:0.0}", False),
        ("${cmaxgt0:${schedule}}", True),
        ("${cmaxgt0orcmaxgt0:0,${schedule}}", True),
        ("${tuple2:3}", [3.0, 3.0]),
    ],
)
def test_resolvers(expression, expected):
    cfg = OmegaConf.create({"schedule": [0, 0.0, 1.0, 10], "value": expression})
    OmegaConf.resolve(cfg)
    assert cfg.value == expected


def test_c_max():
    assert C_max(3) == 3
    assert C_max([0.5, 0.1, 100]) == 0.5
    assert C_max(OmegaConf.create([10, 0.1, 0.9, 100])) == 0.9
    assert C_max([0, 1, 2, 10, 3, 20, 0.5, 30]) == 3


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_load_config_merges_and_names_the_folder(here):
    text = "name: creature\ntag: '${rmspace:${system.prompt_processor.prompt},_}'\nuse_timestamp: false\n"
    text += "system: {prompt_processor: {prompt: a, other: [1, 2]}, rate: 1}\ntrainer: {max_steps: 3}\n"
    cfg = load_config(
        text,
        from_string=True,
        cli_args=["system.prompt_processor.prompt=a: b c=d", "system.rate=1e-3", "trainer.deep.new=[1,2]", "seed=5"],
        n_gpus=1,
    )
    assert cfg.system.prompt_processor.prompt == "a: b c=d"
    assert cfg.system.rate == 1e-3 and cfg.trainer.deep.new == [1, 2] and cfg.seed == 5
    assert cfg.trial_dir == "outputs/creature/a:_b_c=d" and not (here / "outputs").exists()
    dump_config("parsed.yaml", cfg)
    again = load_config("parsed.yaml")
    assert again == cfg
    assert config_to_primitive(cfg.trainer) == {"max_steps": 3, "deep": {"new": [1, 2]}}
    with pytest.raises(ValueError):
        config_to_primitive({"a": 1})


def test_timestamp_and_numeric_tag(here):
    cfg = load_config("tag: 12", from_string=True)
    assert cfg.trial_name.startswith("12@20") and cfg.timestamp.startswith("@")
    cfg = load_config("tag: run", from_string=True, n_gpus=2)
    assert cfg.trial_name == "run"
    with pytest.raises(ValueError, match="tag"):
        load_config("use_timestamp: false", from_string=True)


@pytest.mark.parametrize(
    "text, arguments, message",
    [
        ("sede: 3", [], "Unknown config key 'sede' (unexpected keyword argument for ExperimentConfig). Did you mean"),
        ("seed: 3", ["--fast"], "Cannot read the argument '--fast': overrides are written key=value"),
        ("seed: 3", ["data.a=[1"], "Cannot read the argument 'data.a=[1'"),
        ("seed: many", [], "seed is 'many': it must be a whole number"),
        (
            "tag: '${rmspace:${system.prompt},_}'\nsystem:\n  prompt: ???",
            [],
            "system.prompt has no value yet, and tag is made from it: give it in the YAML file or on the command line "
            "(system.prompt=...).",
        ),
        (
            "tag: '${data.szie}'\ndata: {size: 3}",
            [],
            "tag refers to '${data.szie}', which the configuration does not have. Did you mean '${data.size}'?",
        ),
        ("- a\n- b", [], "A configuration is a YAML mapping"),
    ],
)
def test_messages_of_load_config(here, text, arguments, message):
    with pytest.raises(UserError) as caught:
        load_config(text, from_string=True, cli_args=arguments)
    assert str(caught.value).startswith(message)


def test_file_errors(here):
    with pytest.raises(UserError, match="'absent.yaml' does not exist"):
        load_config("absent.yaml")
    (here / "broken.yaml").write_text("a: [1\nb: {")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config("broken.yaml")


def test_missing_values_elsewhere_do_not_matter(here):
    cfg = load_config("tag: t\nsystem:\n  prompt: ???\n", from_string=True)
    assert OmegaConf.is_missing(cfg.system, "prompt")


def test_defaults_are_a_valid_config(here):
    assert isinstance(parse_structured(ExperimentConfig, {}).data, type(OmegaConf.create({})))
    assert isinstance(parse_structured(Part, {}).numbers, ListConfig)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="is not a file but"):
        load_config(str(tmp_path / "a.yaml"))
