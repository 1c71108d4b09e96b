"""What tests share: one thread, tiny networks, the folder of references when it is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from joyhallo.models.networks import Networks
from tiny import drawn_networks, tiny_preset

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def networks() -> Networks:
    """The clean row order and the semi-decoupled audio attention. Never change it: it is shared."""
    return drawn_networks(tiny_preset())


@pytest.fixture(scope="session")
def make_networks() -> Callable[..., Networks]:
    """Another one, whose weights a test may change: options of `tiny_preset`."""
    return lambda **options: drawn_networks(tiny_preset(**options))


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """What was taken from the published code; not part of the repository."""
    if not (REFERENCE / "goldens").is_dir():
        pytest.skip("the folder of references is not here")
    return REFERENCE
