"""Fixtures of the launcher's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest_launch import launch, trained, trained_copy, workdir  # noqa: E402, F401
