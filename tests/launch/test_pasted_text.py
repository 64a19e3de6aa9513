"""Text of any form reaches the config as it stands, also through a shell, also what the tools print."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import threestudio_4d  # noqa: F401 - registers the classes that say which keys are text
from threestudio.utils.config import dump_config, load_config
from threestudio.utils.errors import UserError
from threestudio_4d.paths import train_command

CONFIG = Path(__file__).resolve().parents[2] / "configs/consistent4d.yaml"
NASTY = [
    *("1.10", "007", "2024_05_01", "1e3", "0x10", "1:30", ".nan", "-.inf", "null", "~", "true", "no", "-", "-1"),
    *("take #2", "#ffffff", "# x", "fox: running", "a: b", "[a]", "[a", "{b: c}", "{", "*a", "&a", "@a", "%a", "|"),
    *("it's", 'say "hi"', "'quoted'", '"quoted"', " lead", "trail ", "a  b", "a\tb", "a\nb", "a=b", "a,b", "a;b"),
    *("$HOME", "${HOME}", "${data.loop}", "\\${x}", "$(ls)", "`ls`", "!x", "a\\b", "a\\", "*", "?", "??", "ünï/狐 é"),
]
SMALL = """
tag: t
data_type: image-seq-datamodule
system_type: consistent4d-system
system: {guidance_type: zero123-guidance-t}
"""
TEXTS = ["name", "tag", "exp_root_dir", "data.image_seq_path", "data.mask_path", "data.key_color"]
TEXTS += ["system.guidance.pretrained_model_name_or_path", "checkpoint.filename"]


def through_a_shell(command: str) -> list[str]:
    """The arguments that a shell gives to ``python`` when the command is pasted into it."""
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    script = f"python() {{ {shlex.join([sys.executable, '-c', show])} \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", TEXTS)
def test_text_is_taken_as_it_stands(key):
    nullable = key in ("data.mask_path", "checkpoint.filename")
    for text in [t for t in NASTY if (key, t) != ("exp_root_dir", "null")]:  # that is refused: no folder's name
        cfg = load_config(SMALL, cli_args=[f"{key}={text}"], from_string=True)
        assert OmegaConf.select(cfg, key) == (None if nullable and text == "null" else text), text


@pytest.mark.parametrize("text", ["${HOME}", "\\${x}", "take #2", "1.10"])
def test_text_survives_the_saved_config(text):
    cfg = load_config(str(CONFIG), cli_args=[f"data.image_seq_path=clips/{text}"])
    assert cfg.tag == text.replace(" ", "_")  # made from the path by the config
    dump_config("parsed.yaml", cfg)
    again = load_config("parsed.yaml")
    assert again.data.image_seq_path == f"clips/{text}" and again == cfg


def test_what_the_tools_print_can_be_pasted():
    for text in NASTY:
        *_, path, loop = through_a_shell(train_command(text, loop=True))
        cfg = load_config("tag: t\ndata_type: image-seq-datamodule", cli_args=[path, loop], from_string=True)
        assert cfg.data.image_seq_path == text and cfg.data.loop is True


@pytest.mark.parametrize("key", ["data.image_seq_path", "data.mask_path", "seed", "system.video_fps", "data.height"])
def test_an_empty_value_names_its_key(key):
    with pytest.raises(UserError, match=f"^{key} is empty: give a value after the equals sign"):
        load_config(str(CONFIG), cli_args=[f"{key}="])


def test_a_comment_in_a_value_that_is_no_text_is_refused():
    with pytest.raises(UserError, match="'#' begins a comment"):
        load_config(str(CONFIG), cli_args=["data.height=64 #2"])


def test_null_is_no_value_only_where_there_may_be_none():
    cfg = load_config(str(CONFIG), cli_args=["data.mask_path=null", "tag=null", "data.image_seq_path=null"])
    assert cfg.data.mask_path is None and cfg.tag == "null" and cfg.data.image_seq_path == "null"
