"""What a normal run does not print, and how its idle threads wait."""

import importlib.util
import logging

import diffusers.utils.logging
import huggingface_hub.utils
import pytest
import transformers.utils.logging
from conftest_launch import LAUNCHER

from threestudio.launching.logs import Quiet, hide_loading_bars


@pytest.fixture
def launcher():
    spec = importlib.util.spec_from_file_location("launcher_under_test", LAUNCHER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_idle_threads_sleep_unless_the_user_says_otherwise(launcher, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    launcher.let_idle_threads_sleep()
    assert launcher.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    launcher.let_idle_threads_sleep()
    assert launcher.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_bars_of_loading_are_hidden_and_those_of_downloads_stay():
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    huggingface_hub.utils.enable_progress_bars()
    try:
        hide_loading_bars()
        assert not any(library.is_progress_bar_enabled() for library in libraries)
        assert not huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        for library in libraries:
            library.enable_progress_bar()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("You are using a CUDA device ('NVIDIA') that has Tensor Cores.", False),
        ("LOCAL_RANK: 0 - CUDA_VISIBLE_DEVICES: [0]", False),
        ("Validation results will be saved to outputs/a/b/save", False),
        ("Loading the Zero123 prior zero123-tiny", True),
    ],
)
def test_remarks(message, shown):
    record = logging.LogRecord("pytorch_lightning", logging.INFO, __file__, 1, message, None, None)
    assert Quiet().filter(record) is shown
