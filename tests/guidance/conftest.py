"""What the tests of guidances share."""

import pytest

from threestudio.utils.misc import set_device


@pytest.fixture(autouse=True)
def _device(request):
    """Tests not marked ``gpu`` stay on the CPU, also where there is a GPU."""
    if "gpu" not in request.keywords:
        set_device("cpu")
    yield
    set_device(None)
