"""A run that goes on, or is looked at again, brings its own settings along."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest_launch import LAUNCHER, call, make_workdir
from omegaconf import OmegaConf

from threestudio.launching.own_config import changes_since, read_own_config, read_yaml
from threestudio.utils.config import load_config
from threestudio.utils.errors import ConfigError

OWN = Path("outputs/tiny/mine")
CONFIGS = sorted(Path(LAUNCHER).parent.joinpath("configs").glob("*.yaml"))
#: what stood on the command line when the run was started, and not in the config file
GIVEN = ("tag=mine", "data.n_test_views=5", "system.n_values=6", "system.target=2.0")


@pytest.fixture(scope="module")
def own_run(tmp_path_factory) -> Path:
    folder = make_workdir(tmp_path_factory.mktemp("own"))
    result = call(folder, "--config", "tiny.yaml", "--train", *GIVEN, "trainer.limit_test_batches=0")
    assert result.code == 0, result.text
    return folder


@pytest.fixture
def workdir(own_run, tmp_path) -> Path:
    return Path(shutil.copytree(own_run, tmp_path / "copy"))


def parsed(trial: Path) -> dict:
    return yaml.safe_load((trial / "configs/parsed.yaml").read_text())


def change(workdir: Path, old: str, new: str) -> None:
    text = (workdir / "tiny.yaml").read_text()
    assert old in text
    (workdir / "tiny.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize("where", [OWN, OWN / "ckpts/last.ckpt", OWN / "ckpts/epoch=0-step=4.ckpt"])
def test_test_renders_with_the_settings_of_the_run(workdir, where):
    result = call(workdir, "--config", "tiny.yaml", "--test", f"resume={where}")
    assert result.code == 0, result.text
    step = 4 if "step=4" in str(where) else 8
    assert len(list((workdir / OWN / f"save/it{step}-test").glob("*.png"))) == 5
    assert [folder.name for folder in (workdir / "outputs/tiny").iterdir()] == ["mine"]


def test_export_reads_the_model_of_the_run(workdir):
    result = call(workdir, "--config", "tiny.yaml", "--export", f"resume={OWN}")
    assert result.code == 0, result.text
    assert len(yaml.safe_load((workdir / OWN / "save/it8-export/values.json").read_text())["values"]) == 6


def test_training_goes_on_with_the_settings_of_the_run(workdir, own_run):
    whole = call(workdir, "--config", "tiny.yaml", "--train", *GIVEN, "tag=whole", "trainer.max_steps=12")
    assert whole.code == 0, whole.text
    result = call(workdir, "--config", "tiny.yaml", "--train", f"resume={OWN}", "trainer.max_steps=12")
    assert result.code == 0, result.text
    values = [
        torch.load(workdir / f"outputs/tiny/{name}/ckpts/last.ckpt", weights_only=True)["state_dict"]["values"]
        for name in ("whole", "mine")
    ]
    assert torch.equal(*values)
    kept, now = workdir / OWN / "configs/parsed.1.yaml", parsed(workdir / OWN)
    assert kept.read_text() == (own_run / OWN / "configs/parsed.yaml").read_text()
    assert now["trainer"]["max_steps"] == 12 and now["data"]["n_test_views"] == 5 and now["tag"] == "mine"


def test_the_command_line_stands_above_the_settings_of_the_run(workdir):
    result = call(workdir, "--config", "tiny.yaml", "--test", f"resume={OWN}", "data.n_test_views=2")
    assert result.code == 0, result.text
    assert len(list((workdir / OWN / "save/it8-test").glob("*.png"))) == 2
    assert parsed(workdir / OWN)["data"]["n_test_views"] == 5


@pytest.mark.parametrize("mode", ["--train", "--test", "--export"])
def test_a_config_that_contradicts_the_data_is_refused(workdir, mode):
    change(workdir, "n_test_views: 3", "n_test_views: 4")
    before = {path: path.stat().st_mtime_ns for path in (workdir / OWN).rglob("*")}
    result = call(workdir, "--config", "tiny.yaml", mode, f"resume={OWN}", "trainer.max_steps=12")
    result.assert_user_error("data.n_test_views: 5 in the run, 4 in the file", "configs/raw.yaml")
    assert {path: path.stat().st_mtime_ns for path in (workdir / OWN).rglob("*")} == before


def test_a_config_with_another_geometry_is_refused(workdir):
    change(workdir, "system:\n", "system:\n  geometry_type: implicit-volume\n  geometry:\n    radius: 2.0\n")
    result = call(workdir, "--config", "tiny.yaml", "--test", f"resume={OWN}")
    result.assert_user_error("system.geometry_type: nothing in the run", "geometry.radius: nothing in the run, 2.0")


@pytest.mark.parametrize("file", ["configs/raw.yaml", "configs/parsed.yaml"])
def test_the_runs_own_files_do_not_contradict_it(workdir, file):
    shutil.copy(workdir / OWN / file, workdir / "own.yaml")
    result = call(workdir, "--config", "own.yaml", "--test", f"resume={OWN}")
    assert result.code == 0, result.text
    assert len(list((workdir / OWN / "save/it8-test").glob("*.png"))) == 5


def test_other_changes_of_the_file_are_taken_over_and_said(workdir):
    change(workdir, "max_steps: 8", "max_steps: 10")
    result = call(workdir, "--config", "tiny.yaml", "--train", f"resume={OWN}")
    assert result.code == 0, result.text
    assert "trainer.max_steps=10: changed in tiny.yaml since the run began" in result.err
    assert torch.load(workdir / OWN / "ckpts/last.ckpt", weights_only=True)["global_step"] == 10


def test_a_new_run_in_the_folder_of_another_keeps_its_config(workdir):
    before = (workdir / OWN / "configs/parsed.yaml").read_text()
    change(workdir, "seed: 3", "seed: 4")
    result = call(workdir, "--config", "tiny.yaml", "--train", "tag=mine")
    assert result.code == 0, result.text
    assert (workdir / OWN / "configs/parsed.1.yaml").read_text() == before
    assert "seed: 3" in (workdir / OWN / "configs/raw.1.yaml").read_text()
    assert parsed(workdir / OWN)["seed"] == 4


def test_a_run_with_a_timestamp_goes_on_in_its_folder(workdir):
    first = call(workdir, "--config", "tiny.yaml", "--train", *GIVEN, "use_timestamp=true", "trainer.max_steps=4")
    assert first.code == 0, first.text
    (stamped,) = (workdir / "outputs/tiny").glob("mine@*")
    for resume in (f"resume={stamped}", "resume=last"):
        again = call(workdir, "--config", "tiny.yaml", "--test", *GIVEN, "use_timestamp=true", resume)
        assert again.code == 0, again.text
        assert f"results in outputs/tiny/{stamped.name}" in again.out
    assert len(list((workdir / "outputs/tiny").iterdir())) == 2


def test_text_of_a_run_comes_back_as_it_was(workdir):
    description = "take #2: ${seed} 1.10 \\ '\""
    first = call(workdir, "--config", "tiny.yaml", "--train", "tag=1.10", f"description={description}")
    assert first.code == 0, first.text
    again = call(workdir, "--config", "tiny.yaml", "--train", "resume=outputs/tiny/1.10", "trainer.max_steps=9")
    assert again.code == 0, again.text
    config = parsed(workdir / "outputs/tiny/1.10")
    assert config["tag"] == "1.10" and config["description"] == description.replace("${", "\\${")


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def run_of_a_shipped_config(request, tmp_path):
    """Folder of a run that took its clip and size from the command line, and the config file that it had."""
    overrides = ["data.image_seq_path=clips/mine", "data.height=16", "system.geometry.n_grid_dims=8"]
    cfg = load_config(str(request.param), cli_args=overrides)
    folder = tmp_path / "outputs/consistent4d/mine"
    (folder / "configs").mkdir(parents=True)
    shutil.copy(request.param, folder / "configs/raw.yaml")
    OmegaConf.save(cfg, folder / "configs/parsed.yaml")
    return folder, request.param


def test_shipped_configs_do_not_contradict_runs_of_theirs(run_of_a_shipped_config):
    folder, config = run_of_a_shipped_config
    own = read_own_config(folder)
    assert own.data.image_seq_path == "clips/mine" and f"{own.tag}{own.timestamp}" == "mine"
    assert changes_since(folder, own, read_yaml(config)) == {}


def test_shipped_configs_contradict_runs_of_other_ones(run_of_a_shipped_config):
    folder, config = run_of_a_shipped_config
    own = read_own_config(folder)
    for other in CONFIGS:
        small, large = sorted([config.stem == "consistent4d", other.stem == "consistent4d"])
        if small != large:
            with pytest.raises(ConfigError, match="system.geometry.grid_size: "):
                changes_since(folder, own, read_yaml(other))


def test_overrides_reach_what_refers_to_them(tmp_path):
    text = "seed: 1\na: ${seed}\nb: ${seed}\nc: ${a}\nsteps: [1, '${seed}']\n"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/raw.yaml").write_text(text)
    (tmp_path / "configs/parsed.yaml").write_text("seed: 2\na: 2\nb: 9\nc: 2\nsteps: [1, 2]\nd: {e: 4}\n")
    own = read_own_config(tmp_path)
    keys = ("seed", "a", "b", "c", "steps", "d")
    assert [own[key] for key in keys] == [2, 2, 9, 2, [1, 2], {"e": 4}]
    own.seed = 3
    assert [own[key] for key in keys] == [3, 3, 9, 3, [1, 3], {"e": 4}]
