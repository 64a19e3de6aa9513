"""Compiled kernels give the same bits in the run that compiles them and in those that load them."""

import os
import subprocess
import sys

import pytest
from numba.core.registry import CPUDispatcher

from threestudio_4d.ops import planes_numba

LOOKUP = """
import hashlib, torch
from threestudio_4d.ops.planes_numba import PlaneLookupCPU
torch.set_num_threads(1)
torch.manual_seed(0)
resolution = (8, 8, 8, 4)
rows = sum(resolution[a] * resolution[b] for a in range(4) for b in range(a + 1, 4))
features = PlaneLookupCPU.apply(torch.randn(rows, 16), torch.rand(3000, 4) * 2 - 1, resolution, False)
print(hashlib.sha1(features.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_compiled_and_loaded_kernels_agree_bit_for_bit(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    compiled, loaded = (
        subprocess.run([sys.executable, "-c", LOOKUP], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc"))
    assert compiled.stdout == loaded.stdout


def test_kernels_contain_what_they_call():
    """A call from one kept kernel to another is linked to different code when compiled and when loaded."""
    functions = {name: value for name, value in vars(planes_numba).items() if isinstance(value, CPUDispatcher)}
    called = {name for function in functions.values() for name in function.py_func.__code__.co_names}
    parts = {name for name in functions if name in called}
    assert {"lookup_values", "_corners"} <= parts
    assert {name for name in parts if not functions[name].targetoptions.get("forceinline")} == set()
