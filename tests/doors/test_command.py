"""How commands end: exit status and the one message."""

import atexit
import errno
import gc
import re
from pathlib import Path

import pytest

from threestudio_4d.command import command
from threestudio_4d.errors import UserError


def ends(error, argv=()):
    @command(interrupted="stopped")
    def main(argv):
        raise error

    return main(list(argv))


def test_what_main_returns_is_the_exit_status():
    assert command()(lambda argv: None)([]) == 0 and command()(lambda argv: 1)([]) == 1


def test_the_end_of_the_interpreter_is_not_held_up(monkeypatch):
    at_the_end = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    assert ends(UserError("no such pack")) == 2
    assert gc.freeze in at_the_end


@pytest.mark.parametrize(
    ("error", "argv", "status", "message"),
    [
        (UserError("no such pack"), (), 2, "error: no such pack"),
        (KeyboardInterrupt(), (), 130, "stopped"),
        (PermissionError(errno.EACCES, "Denied", "in.npz"), ("in.npz",), 2, "error: in.npz: Denied"),
        (FileNotFoundError(errno.ENOENT, "Gone", "clip/0.png"), ("--data=clip",), 2, "error: clip/0.png: Gone"),
        (
            OSError(errno.ENOSPC, "Full", "out/0.png"),
            (),
            2,
            "error: cannot write out/0.png: no space left on the disk.",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_message(error, argv, status, message, capsys):
    assert ends(error, argv) == status
    printed = capsys.readouterr()
    assert printed.err.startswith(message) and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize("error", [KeyError("ours"), FileNotFoundError(errno.ENOENT, "No such file", "cache/x")])
def test_a_fault_of_ours_keeps_its_traceback_in_a_file(error, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ends(error, ["clip"]) == 1
    message = capsys.readouterr().err
    log = re.fullmatch(r"internal error: \w+: .*\(the traceback is in (.*)\)\n", message)[1]
    assert "Traceback" in Path(log).read_text() and "Traceback" not in message
