"""The configurations that ship: they parse, build, and have the published sizes."""

import pytest
import yaml

import threestudio
from threestudio.utils.config import load_config

PUBLISHED = {
    "consistent4d_zero123xl.yaml": 698_304,
    "consistent4d_zero123xl_low_vram.yaml": 418_272,
    "consistent4d_zero123xl_4layers.yaml": 5_155_008,
}


def load(repository, tmp_path, tiny_clip, name):
    cli = [f"exp_root_dir={tmp_path}", f"data.image_seq_path={tiny_clip}"]
    return load_config(str(repository / "configs" / name), cli_args=cli, n_gpus=1)


@pytest.mark.parametrize(("name", "n_parameters"), PUBLISHED.items())
def test_published_settings_build_with_the_published_number_of_parameters(
    repository, tmp_path, tiny_clip, name, n_parameters
):
    cfg = load(repository, tmp_path, tiny_clip, name)
    threestudio.find(cfg.data_type)(cfg.data).setup("fit")
    system = threestudio.find(cfg.system_type)(cfg.system)
    assert sum(value.numel() for value in system.parameters()) == n_parameters
    assert cfg.trainer.max_steps == 10_000
    assert system.loss_weights("rgb", 0) == 500 and system.loss_weights.ever_positive("vif")
    guidance = threestudio.find(cfg.system.guidance_type)
    interpolator = threestudio.find(cfg.system.interpolator_type)
    exporter = threestudio.find(cfg.system.exporter_type)
    for part, section in ((guidance, "guidance"), (interpolator, "interpolator"), (exporter, "exporter")):
        part.Config(**cfg.system.get(section, {}))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_state_where_they_differ(repository, name):
    """Keys whose default is not what was published stand in the file itself, not only in the code."""
    cfg = yaml.safe_load((repository / "configs" / name).read_text())
    assert cfg["data"]["random_camera"]["elevation_law"] == "mixed"
    assert cfg["system"]["interpolator"] == {"min_size": 128}
    assert (cfg["data"]["n_val_views"], cfg["data"]["n_val_times"]) == (4, 3)
    assert cfg["checkpoint"]["every_n_train_steps"] == 1000


def test_four_layers_weigh_the_third_level_less(repository, tmp_path, tiny_clip):
    cfg = load(repository, tmp_path, tiny_clip, "consistent4d_zero123xl_4layers.yaml")
    weights = threestudio.find(cfg.system_type)(cfg.system).loss_weights
    assert [weights("sds", level) for level in range(4)] == [0.1, 0.1, 0.003, 0.1]
    assert [weights("rgb", level) for level in range(4)] == [500, 500, 200, 500]


def test_built_in_settings_keep_interpolation_consistency_on(repository, tmp_path, tiny_clip):
    cfg = load(repository, tmp_path, tiny_clip, "consistent4d.yaml")
    dataset = threestudio.find(cfg.data_type)(cfg.data).train_dataset
    milestones = list(cfg.data.resolution_milestones)
    assert all(dataset.random_stage(step).batch_size > 2 for step in (0, *milestones))
    assert threestudio.find(cfg.system_type)(cfg.system).loss_weights.ever_positive("vif")
