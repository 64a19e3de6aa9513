"""Settings that every test shares: import paths, one thread, no network, ``gpu`` marker, optional data."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Before torch or a model library is imported: these are read at import time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

for _folder in (REPOSITORY / "custom", REPOSITORY / "extern"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

# Helper modules lie beside the tests that use them.
sys.path += [str(_folder) for _folder in sorted(Path(__file__).parent.iterdir()) if _folder.is_dir()]

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the optional test clips: ``T4D_DATA``, else ``../shared/data``; without it the test is skipped."""
    folder = Path(os.environ.get("T4D_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"optional data folder {folder} is absent (set T4D_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registry_keeps_its_names() -> Iterator[None]:
    """A test that removes names from the registry does not take them from the others."""
    host = sys.modules.get("threestudio")
    before = dict(getattr(host, "__modules__", {}))
    yield
    if before:
        host.__modules__.update(before)
