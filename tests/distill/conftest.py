from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Tests that draw tensors draw the same ones each time, and leave nothing behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
