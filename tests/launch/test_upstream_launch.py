"""``launch.py`` with a ``threestudio`` package in the working directory, which lacks what only this host has."""

import shutil
import subprocess
import sys

from conftest_launch import LAUNCHER, environment

COMMAND = (sys.executable, str(LAUNCHER), "--config", "tiny.yaml", "--train", "trainer.max_steps=2")
TELL = "\nimport threestudio.launching as own\nprint('host', threestudio.__file__, own.__file__)\n"


def test_the_package_in_the_working_directory_is_the_host(workdir):
    extern = LAUNCHER.parent / "extern/threestudio"
    host = workdir / "threestudio"
    shutil.copytree(extern, host, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(host / "launching")
    (host / "utils/checkpoint_io.py").unlink()
    with open(workdir / "custom/tiny_extension/__init__.py", "a") as extension:
        extension.write(TELL)
    done = subprocess.run(COMMAND, cwd=workdir, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"using threestudio 0.2.3 of {workdir}" in done.stderr
    assert f"host {host}/__init__.py {extern}/launching/__init__.py" in done.stdout


def test_a_host_that_lacks_a_package_is_named(workdir):
    host = workdir / "threestudio"
    host.mkdir()
    (host / "__init__.py").write_text("import a_package_that_is_not_there\n")
    done = subprocess.run(COMMAND, cwd=workdir, env=environment(), capture_output=True, text=True, timeout=200)
    message = "threestudio cannot be imported: No module named 'a_package_that_is_not_there'"
    assert done.returncode == 2 and done.stderr == f"error: {message} (--verbose shows where)\n", done.stderr
