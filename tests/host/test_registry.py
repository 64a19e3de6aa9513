import subprocess
import sys

import pytest

import threestudio
from threestudio.utils.errors import UserError


@pytest.fixture(autouse=True)
def _restore_registry(monkeypatch):
    monkeypatch.setattr(threestudio, "failed_custom_modules", {})
    yield
    for name in [n for n in threestudio.__modules__ if n.startswith("test-")]:
        del threestudio.__modules__[name]


def test_register_returns_the_class_and_find_gives_it_back():
    @threestudio.register("test-thing")
    class Thing:
        pass

    assert Thing.__name__ == "Thing"
    assert threestudio.find("test-thing") is Thing


def test_a_name_can_be_taken_once():
    threestudio.register("test-thing")(type("A", (), {}))
    with pytest.raises(ValueError, match="'test-thing' is already registered by"):
        threestudio.register("test-thing")(type("B", (), {}))
    with pytest.raises(ValueError, match="no-material"):
        threestudio.register("no-material")(type("C", (), {}))


def test_composition_puts_mixins_in_front():
    @threestudio.register("test-main")
    class Main:
        who = "main"

        def chain(self):
            return ["main"]

    @threestudio.register("test-a")
    class A:
        who = "a"

        def chain(self):
            return ["a", *super().chain()]

    @threestudio.register("test-b")
    class B:
        who = "b"

        def chain(self):
            return ["b", *super().chain()]

    combined = threestudio.find("test-main:test-a,test-b")
    assert combined.__mro__[1:4] == (A, B, Main)
    assert combined.who == "a" and combined().chain() == ["a", "b", "main"]
    assert combined.__name__ == "test-main.test-a,test-b"
    assert threestudio.find("test-main:test-a,test-b") is not combined
    with pytest.raises(ValueError, match="more than one colon"):
        threestudio.find("test-main:test-a:test-b")


@pytest.mark.parametrize("name", ["", "no-such-thing", "test-main:no-such-thing"])
def test_unknown_names_raise_key_errors(name):
    threestudio.register("test-main")(type("Main", (), {}))
    with pytest.raises(KeyError) as caught:
        threestudio.find(name)
    assert isinstance(caught.value, UserError)


def test_message_of_an_unknown_name():
    threestudio.failed_custom_modules["my-extension"] = "ModuleNotFoundError: No module named 'foo'"
    with pytest.raises(threestudio.UnknownModuleError) as caught:
        threestudio.find("solid-colour-background")
    assert str(caught.value) == (
        "No module is registered as 'solid-colour-background'.\n"
        "Did you mean 'solid-color-background'?\n"
        "These custom modules failed to import, so their names are missing:\n"
        "  my-extension: ModuleNotFoundError: No module named 'foo'"
    )


def test_names_of_upstream_only_modules_are_explained():
    with pytest.raises(KeyError, match="Upstream threestudio has it"):
        threestudio.find("neus-volume-renderer")


def test_every_built_in_name_leads_to_a_class():
    for name in threestudio.available():
        assert isinstance(threestudio.find(name), type), name


def test_import_is_light_and_complete():
    code = (
        "import sys, threestudio as t; "
        "assert 'mesh-exporter' in t.available(); "
        "heavy = {'diffusers', 'trimesh', 'xatlas', 'skimage', 'av', 'wandb'} & set(sys.modules); "
        "assert not heavy, heavy; assert t.__version__ == '0.2.3'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**__import__("os").environ, "PYTHONPATH": "extern"})
