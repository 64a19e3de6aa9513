"""Consistent4D from data to files, at the smallest size."""

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

VIEWS = ("ref", "az-75", "az15", "az105", "az195")


def losses_of(run, steps):
    """Train and return the logged values of each step."""
    logged = []
    original = run.system.log

    def log(name, value, *args, **kwargs):
        if logged and logged[-1][0] == run.system.true_global_step:
            logged[-1][1][name] = value
        else:
            logged.append((run.system.true_global_step, {name: value}))
        original(name, value, *args, **kwargs)

    run.system.log = log
    run.fit(steps)
    return dict(logged)


def test_both_stages_train_with_finite_losses(make_run):
    run = make_run("system.loss.lambda_sparsity=0.1", "system.loss.lambda_opaque=0.1")
    before = {name: value.clone() for name, value in run.system.geometry.named_parameters()}
    logged = losses_of(run, 4)
    assert sorted(logged) == [0, 1, 2, 3]
    for step, values in logged.items():
        assert all(np.isfinite(float(torch.as_tensor(value).detach())) for value in values.values()), (step, values)
    assert "train/loss_ref_rgb_0" in logged[0] and "train/loss_ref_mask_1" in logged[2]
    assert "train/loss_zero123_sds_1" in logged[1] and "train/loss_ref_rgb_0" not in logged[1]
    assert "train/loss_zero123_sparsity" in logged[1] and "train/loss_ref_sparsity" not in logged[0]
    moved = [name for name, value in run.system.geometry.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)


def test_state_dict_holds_neither_prior_nor_interpolator(make_run):
    run = make_run()
    keys = set(run.system.state_dict())
    run.fit(2)
    assert set(run.system.state_dict()) == keys
    assert not [key for key in keys if "guidance" in key or "interpolator" in key]


@pytest.mark.parametrize(
    ("mode_section", "batch_size", "expected"),
    [
        ("[0,1,1,1]", 4, "arc"),
        ("[0,0,1,1]", 4, "run"),
        ("[1,1,1,1]", 4, None),
        ("[0,0,0,1]", 4, None),
        ("[0,1,1,1]", 2, None),
    ],
)
def test_interpolation_consistency_wants_a_sequence_of_three(make_run, mode_section, batch_size, expected):
    run = make_run(f"data.mode_section={mode_section}", f"data.batch_size={batch_size}")
    logged = losses_of(run, 4)
    calls = run.system.interpolator.shapes
    assert calls == ([(2, 12, 12, 3), (2, 16, 16, 3)] if expected else [])
    assert ("train/loss_zero123_vif_1" in logged[3]) == bool(expected)


def test_terms_of_weight_zero_are_not_computed(make_run, spy):
    run = make_run("system.loss.lambda_sds_0=0", "system.loss.lambda_vif=0")
    run.system.on_fit_start = lambda original=run.system.on_fit_start: (
        original(),
        setattr(run, "distilled", spy(run.system.guidance, "distill")),
    )
    logged = losses_of(run, 2)
    assert run.system.interpolator is None
    assert [args[0].shape[0] for args, _ in run.distilled.arguments] == [4]
    assert "train/loss_zero123_sds_0" not in logged[1]
    assert "train/loss_ref_orient" not in logged[0]


def test_a_step_without_any_weighted_term_counts(make_run):
    run = make_run(*(f"system.loss.lambda_{name}=0" for name in ("sds", "vif", "sparsity", "opaque")))
    logged = losses_of(run, 4)
    assert logged[3]["train/loss"].item() == 0


def test_regularisers_of_surfaces_run_when_weighed(make_run):
    run = make_run(
        "system.loss.lambda_orient=1",
        "system.loss.lambda_3d_normal_smooth=1",
        "system.loss.lambda_normal_smooth=1",
        "system.loss.lambda_z_variance=1",
        "system.renderer.return_comp_normal=true",
    )
    logged = losses_of(run, 2)
    for step, kind in ((0, "ref"), (1, "zero123")):
        for name in ("orient", "3d_normal_smooth", "normal_smooth", "z_variance"):
            assert torch.isfinite(logged[step][f"train/loss_{kind}_{name}"])


def test_regularisers_of_pictures_see_all_levels(make_run):
    run = make_run()
    solid, rough = torch.ones(2, 1, 4, 4, 1), torch.zeros(2, 1, 4, 4, 3)
    rough[0, :, ::2] = 1  # only the coarse level
    rendered = {"z_variance_levels": solid * torch.tensor([3.0, 1.0]).view(2, 1, 1, 1, 1), "opacity_levels": solid}
    terms = run.system.regularisers(rendered | {"comp_normal_levels": rough})
    assert terms["z_variance"].value().item() == 2
    assert terms["normal_smooth"].value().item() == 0.5


def test_what_the_prior_saw_is_written_on_request(make_run):
    run = make_run("system.freq.guidance_eval=2")
    run.fit(4)
    assert sorted(path.name for path in run.save_dir.iterdir()) == ["it1-train.png", "it3-train.png"]
    with Image.open(run.save_dir / "it1-train.png") as sheet:
        assert sheet.size == (3 * 16, 4 * 16)  # lambda_sds_0 is 0: the four views of one level


def test_one_sheet_a_period_whatever_the_share_of_reference_steps(make_run):
    system = make_run("system.freq.guidance_eval=8", "system.freq.n_ref=4", "system.freq.ref_only_steps=2").system
    shown = [step for step in range(32) if "sds" in system.step_kinds(step) and system.shows_guidance(step)]
    assert shown == [2, 9, 17, 25]


def test_a_test_computes_normals_only_where_they_are_shown(make_run, monkeypatch):
    run = make_run("system.video_fps=0")
    asked = []
    normals = run.system.geometry.normals
    monkeypatch.setattr(run.system.geometry, "normals", lambda *given: asked.append(1) or normals(*given))
    for split, expected in (("orbit", True), ("eval/0", False)):
        asked.clear()
        batch = next(b for b in run.datamodule.test_dataset if b["split_name"][0].startswith(split[:4]))
        rendered = run.system.eval().renderer(**batch, output_normal=expected)
        assert bool(asked) == ("comp_normal" in rendered) == expected


def test_accumulate_does_both_kinds_on_every_step(make_run):
    run = make_run("system.freq.ref_or_zero123=accumulate", "system.freq.ref_only_steps=1")
    logged = losses_of(run, 2)
    assert "train/loss_zero123_sds_1" not in logged[0]
    assert {"train/loss_zero123_sds_1", "train/loss_ref_rgb_1"} <= set(logged[1])


@pytest.mark.parametrize("value", ["system.freq.ref_or_zero123=both", "system.freq.n_ref=0", "system.freq.n_reff=3"])
def test_wrong_frequencies_are_named(make_run, value):
    with pytest.raises(ValueError, match=r"system\.freq\."):
        make_run(value)


def test_resuming_continues_bit_for_bit(make_run, tmp_path):
    whole = make_run()
    whole.fit(6)
    first = make_run()
    first.fit(3).save_checkpoint(tmp_path / "half.ckpt")
    second = make_run()
    torch.manual_seed(12345)
    second.fit(6, resume=tmp_path / "half.ckpt")
    expected = whole.system.state_dict()
    for name, value in second.system.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pictures_of_the_prior_and_validation_do_not_change_the_training(make_run):
    plain = make_run()
    plain.fit(6, limit_val_batches=0)
    watched = make_run("system.freq.guidance_eval=1", "system.video_fps=0")
    watched.fit(6, val_check_interval=2)
    assert (watched.save_dir / "it1-train.png").is_file() and (watched.save_dir / "it4-val/0.png").is_file()
    expected = plain.system.state_dict()
    for name, value in watched.system.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.gpu
def test_a_gpu_trains_in_mixed_precision_and_writes_pictures(make_run):
    pytest.importorskip("av", reason="writes videos")
    run = make_run(
        "trainer.precision=16-mixed",
        "system.guidance.half_precision_weights=true",
        "data.mode_section=[0,1,1,1]",
        "system.loss.lambda_3d_normal_smooth=1",
    )
    logged = losses_of(run, 6)
    assert all(torch.isfinite(torch.as_tensor(v)).all() for values in logged.values() for v in values.values())
    assert len(run.system.interpolator.shapes) == 3
    run.trainer().test(run.system, run.datamodule, verbose=False)
    assert (run.save_dir / "eval" / "az105" / "4.png").is_file()


def test_validation_and_test_write_the_promised_files(make_run, tiny_clip):
    run = make_run()
    trainer = run.trainer()
    trainer.validate(run.system, run.datamodule, verbose=False)
    with Image.open(run.save_dir / "it0-val" / "3.png") as strip:
        assert strip.size == (64, 16)
    assert (run.save_dir / "it0-val.mp4").stat().st_size > 0

    trainer.test(run.system, run.datamodule, verbose=False)
    for name in ("orbit", *(f"eval-{view}" for view in VIEWS)):
        assert (run.save_dir / "it0-test" / f"{name}.mp4").stat().st_size > 0
    for view in VIEWS:
        frames = sorted(int(path.stem) for path in (run.save_dir / "eval" / view).iterdir())
        assert frames == [0, 1, 2, 3, 4]
        with Image.open(run.save_dir / "eval" / view / "0.png") as frame:
            assert frame.mode == "RGBA" and frame.size == (32, 32)
            alpha = np.array(frame)[..., 3]
            assert alpha[16, 16] > 200 and alpha[0, 0] == 0
    with Image.open(run.save_dir / "it0-test" / "contact_sheet.png") as sheet:
        assert sheet.size == (5 * 128, (1 + 5 + 3) * 128)


def test_no_videos_at_zero_frames_a_second(make_run):
    run = make_run("system.video_fps=0")
    trainer = run.trainer()
    trainer.validate(run.system, run.datamodule, verbose=False)
    trainer.test(run.system, run.datamodule, verbose=False)
    assert not list(run.save_dir.rglob("*.mp4"))
    assert (run.save_dir / "it0-test" / "contact_sheet.png").is_file()


def test_export_writes_meshes_that_open(make_run):
    run = make_run("system.exporter.frames=[0,3]")
    run.trainer().predict(run.system, run.datamodule, return_predictions=False)
    folder = run.save_dir / "it0-export"
    assert sorted(path.name for path in folder.iterdir()) == [
        "mesh_000.glb",
        "mesh_000.obj",
        "mesh_003.glb",
        "mesh_003.obj",
    ]
    obj = trimesh.load(folder / "mesh_000.obj", force="mesh", process=False)
    [glb] = trimesh.load_scene(folder / "mesh_000.glb", process=False).geometry.values()
    assert obj.is_watertight and obj.volume > 0
    assert glb.volume == pytest.approx(obj.volume, rel=1e-3)
    np.testing.assert_allclose(glb.vertices, obj.vertices, atol=1e-4)
    colors = np.asarray(obj.visual.vertex_colors)
    assert colors.shape == (len(obj.vertices), 4)
    assert np.abs(colors[:, :3].astype(int) - 128).max() < 40  # the field starts grey
    linear = np.asarray(glb.visual.vertex_attributes["color"])[:, :3]
    assert np.abs(linear - (colors[:, :3] / 255) ** 2.2).max() < 0.02


def test_export_at_times(make_run):
    run = make_run("system.exporter.times=[0.0,0.25]", "system.exporter.formats=[obj]", "system.exporter.threshold=3")
    run.trainer().predict(run.system, run.datamodule, return_predictions=False)
    assert sorted(path.name for path in (run.save_dir / "it0-export").iterdir()) == ["mesh_000.obj", "mesh_001.obj"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["system.exporter.threshold=1e6"], "no surface at density 1e.06 at any of 5 times"),
        (["system.geometry.density_bias=-20.0"], "the field is transparent at all times"),
        (["system.exporter.frames=[5]"], "must name frames from 0 to 4"),
        (["system.exporter.times=[2.0]"], "exporter.times is .*: it must be a list of numbers, each 0 or more"),
        (["system.exporter.times=[0.5]", "system.exporter.frames=[1]"], "not both"),
        (["system.exporter.formats=[fbx]"], "must be a list of names out of obj, glb"),
        (["system.exporter.up=x"], "system.exporter.up is 'x': it must be one of y, z"),
    ],
)
def test_export_says_what_to_do(make_run, overrides, message):
    run = make_run(*overrides)
    with pytest.raises(ValueError, match=message):
        run.trainer().predict(run.system, run.datamodule, return_predictions=False)
