"""Mistakes: one clear message each, the right exit status, no traceback, nothing overwritten."""

import errno
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest_launch import LAUNCHER, call

from threestudio.launching.outcome import explain

TRIAL = Path("outputs/tiny/run")
TRAIN = ("--config", "tiny.yaml", "--train")


def test_help_is_quick():
    start = time.monotonic()
    done = subprocess.run([sys.executable, str(LAUNCHER), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "resume=" in done.stdout and "--export" in done.stdout
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--config", "tiny.yaml"), "one of the arguments --train --validate --test --export is required"),
        (("--config", "tiny.yaml", "--train", "--test"), "not allowed with argument"),
        (("--train",), "the following arguments are required: --config"),
        (("--config", "tiny.yaml", "--train", "--verbos"), "unknown flag --verbos (did you mean --verbose?)"),
        (("--config", "tiny.yaml", "--train", "--gpu", "abc"), "'abc' is no list of GPUs"),
        (("--config", "tiny.yaml", "--train", "--gpu", ""), "'' is no list of GPUs"),
        (("--config", "tiny.yaml", "--train", "seed"), "overrides are written key=value"),
    ],
)
def test_wrong_command_line(launch, arguments, fragment):
    launch(*arguments).assert_user_error(fragment)


def test_missing_config_names_the_nearest(launch):
    result = launch("--config", "tini.yaml", "--train")
    result.assert_user_error("'tini.yaml' does not exist", "Did you mean 'tiny.yaml'")


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("system.n_valus=3", ("system.n_valus", "Did you mean 'system.n_values'?", "Valid keys: ")),
        ("sytem.x=3", ("sytem", "Did you mean 'system'?")),
        ("system.target=soon", ("system.target is 'soon': it must be a number.",)),
        ("trainer.max_step=3", ("Unknown config key 'trainer.max_step'.", "Did you mean 'trainer.max_steps'?")),
        ("checkpoint.every_n_train_step=3", ("Did you mean 'checkpoint.every_n_train_steps'?",)),
        ("system_type=tiny-sytem", ("system_type: No module is registered as 'tiny-sytem'", "'tiny-system'")),
        ("data_type=", ("no 'data_type'",)),
        ("trainer.max_steps=abc", ("trainer.max_steps is 'abc': it must be a whole number, -1 or more.",)),
        ("checkpoint.every_n_train_steps=1.5", ("checkpoint.every_n_train_steps is 1.5: it must be a whole",)),
        ("trainer.precision=12-odd", ("trainer.precision is '12-odd': it must be one of ", "16-mixed")),
        ("checkpoint.save_top_k=-5", ("checkpoint: ", "-5")),
    ],
)
def test_wrong_config(launch, workdir, override, fragments):
    launch(*TRAIN, override).assert_user_error(*fragments)
    assert not (workdir / TRIAL).exists()


def test_broken_extension_is_reported_and_leaves_the_others_alone(launch, workdir):
    broken = workdir / "custom/broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("import a_package_that_is_not_there\n")
    (workdir / "custom/dotted-1.0").mkdir()
    (workdir / "custom/dotted-1.0/__init__.py").write_text("")
    for ignored in (".hidden", "old_disabled", "__pycache__"):
        (workdir / "custom" / ignored).mkdir()
        (workdir / "custom" / ignored / "__init__.py").write_text("raise SystemError('imported')\n")
    result = launch(*TRAIN, "system_type=broken-system")
    reason = "No module named 'a_package_that_is_not_there'"
    result.assert_user_error("broken (FAILED), dotted-1.0 (FAILED), tiny_extension", reason, "must not have a dot")
    final = result.err[result.err.index("error: ") :]
    assert "broken-system" in final and f"broken: ModuleNotFoundError: {reason}" in final
    assert "imported" not in result.text


@pytest.mark.parametrize("statement", ["sys.exit()", "sys.exit(0)", "sys.exit('no licence')", "raise SystemExit"])
def test_an_extension_that_wants_to_leave_is_reported_and_the_rest_goes_on(launch, workdir, statement):
    (workdir / "custom/leaves").mkdir()
    (workdir / "custom/leaves/__init__.py").write_text(f"import sys\n{statement}\n")
    result = launch(*TRAIN, "trainer.max_steps=1")
    assert result.code == 0, result.text
    assert "leaves FAILED to import: SystemExit" in result.err and "results in" in result.out


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("sys.exit(0)", "SystemExit: 0"),
        ("open('a/file/of/its/own')", "FileNotFoundError"),
        ("os.listdir('/nowhere/at/all')", "FileNotFoundError"),
        ("raise FileNotFoundError('cache entry')", "FileNotFoundError: cache entry"),
        ("self.cfg.no_such_key", "ConfigAttributeError"),
    ],
)
def test_what_the_user_did_not_name_is_not_his_mistake(launch, workdir, fault, message):
    result = launch(*TRAIN, f"system.fault={fault}")
    assert result.code == 1, result.text
    assert f"internal error: {message}" in result.err and "Traceback" not in result.text
    assert "Traceback" in (workdir / TRIAL / "error.log").read_text()


def test_a_file_that_the_user_named_is_his_mistake(launch, workdir):
    result = launch(*TRAIN, "system.fault=open('nowhere.txt')", "description=nowhere.txt")
    result.assert_user_error("nowhere.txt")
    assert not (workdir / "outputs").exists()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("mode", ["--train", "--test"])
@pytest.mark.parametrize("kind", ["pickle", "garbage", "empty", "truncated", "missing"])
def test_what_poses_as_a_checkpoint(trained_copy, kind, mode):
    fake = trained_copy / "fake.ckpt"
    trace = trained_copy / "executed"
    good = (trained_copy / TRIAL / "ckpts/last.ckpt").read_bytes()
    if kind != "missing":
        content = {"pickle": pickle.dumps(Payload(trace)), "garbage": b"\x13garbage" * 99, "empty": b""}
        fake.write_bytes(content.get(kind, good[: len(good) // 2]))
    before = sorted((p, p.stat().st_mtime_ns) for p in (trained_copy / "outputs").rglob("*"))
    result = call(trained_copy, "--config", "tiny.yaml", mode, "resume=fake.ckpt")
    result.assert_user_error("fake.ckpt")
    assert not trace.exists()
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (trained_copy / "outputs").rglob("*"))


def test_resume_last_without_a_run(launch):
    launch(*TRAIN, "resume=last").assert_user_error("resume=last", "outputs/tiny/run*")


def test_no_space_left_keeps_the_previous_checkpoint(launch, workdir):
    result = launch(*TRAIN, "system.fill_disk_at=5")
    result.assert_user_error("No space left on the disk: the checkpoint", "resume=outputs/tiny/run")
    folder = workdir / TRIAL / "ckpts"
    assert sorted(p.name for p in folder.iterdir()) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    again = launch(*TRAIN, "resume=last", "system.fill_disk_at=-1")
    assert again.code == 0, again.text


def test_internal_error_has_its_traceback_in_a_file(launch, workdir):
    result = launch(*TRAIN, "system.fail_at=2")
    assert result.code == 1
    assert "internal error: ZeroDivisionError: a fault in the code" in result.err
    assert "Traceback" not in result.text
    log = workdir / TRIAL / "error.log"
    assert f"{TRIAL}/error.log" in result.err and "Traceback" in log.read_text()


def test_verbose_shows_the_traceback(launch):
    result = launch(*TRAIN, "system.target=soon", "--verbose")
    assert result.code == 2
    assert "Traceback" in result.err


def spoil(path: Path, change) -> None:
    content = torch.load(path, weights_only=True)
    change(content["state_dict"]["values"])
    torch.save(content, path)


@pytest.mark.parametrize("mode", ["--train", "--validate", "--test", "--export"])
def test_checkpoint_with_nan_is_refused(trained_copy, mode):
    last = trained_copy / TRIAL / "ckpts/last.ckpt"
    spoil(last, lambda values: values[1].fill_(float("nan")))
    before = last.read_bytes()
    result = call(trained_copy, "--config", "tiny.yaml", mode, f"resume={last}", "trainer.max_steps=9")
    result.assert_user_error("parameter values (1 of 4 values, NaN)", "last.ckpt")
    assert last.read_bytes() == before


@pytest.mark.parametrize("mode", ["--train", "--test", "--export"])
def test_checkpoint_of_another_size_is_refused(trained_copy, mode):
    last = TRIAL / "ckpts/last.ckpt"
    result = call(trained_copy, "--config", "tiny.yaml", mode, f"resume={last}", "system.n_values=5")
    result.assert_user_error("values is [4] in the checkpoint and [5] by this config", f"{TRIAL}/configs/parsed.yaml")


def test_checkpoint_with_flipped_bits_is_refused(trained_copy):
    last = trained_copy / TRIAL / "ckpts/last.ckpt"
    values = torch.load(last, weights_only=True)["state_dict"]["values"].numpy().tobytes()
    damaged = bytearray(last.read_bytes())
    damaged[damaged.index(values) + 2] ^= 1
    last.write_bytes(damaged)
    torch.load(last, weights_only=True)  # PyTorch does not see it
    result = call(trained_copy, "--config", "tiny.yaml", "--test", f"resume={last}")
    result.assert_user_error("last.ckpt' is damaged", "checksum")


def test_training_that_goes_bad_keeps_the_last_good_checkpoint(trained_copy):
    last = trained_copy / TRIAL / "ckpts/last.ckpt"
    before = last.read_bytes()
    settings = ("trainer.max_steps=12", "checkpoint.every_n_train_steps=1", "system.spoil_at=9")
    result = call(trained_copy, *TRAIN, f"resume={TRIAL}", *settings)
    result.assert_user_error("parameter values (1 of 4 values, NaN)", "After 10 steps", "epoch=0-step=9.ckpt")
    assert last.read_bytes() != before
    assert torch.load(last, weights_only=True)["global_step"] == 9


def test_no_room_without_a_name_says_what_is_too_large(capsys):
    run = SimpleNamespace(cfg={}, trial=None, clean_up=lambda: None)
    assert explain(OSError(errno.EFBIG, "File too large"), run, verbose=False) == 2
    assert "error: cannot write a file: it is larger than files may be here" in capsys.readouterr().err
