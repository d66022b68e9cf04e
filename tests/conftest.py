"""What several rooms use: an embedded data set on disk, and runs trained on it."""

from __future__ import annotations

import os

# The networks here are so small that threads wait for each other longer than they compute. Before
# torch is imported; started processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_recipes import as_config, recipe, teacher_recipe

from videokd.data.index import Index
from videokd.data.indexing import index_synthetic

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what it starts in the background; Ctrl-C is to be heard all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """24 + 12 + 12 real H.264 files of 12 classes, 12 frames of 32 px."""
    out = tmp_path_factory.mktemp("tiny") / "data"
    return index_synthetic(out, preset="tiny", seed=0, num_processes=1)


@pytest.fixture(autouse=True)
def _global_random_state_is_given_back() -> Iterator[None]:
    """No test may depend on the random numbers that another one drew."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    torch.set_flush_denormal(False)  # what makes a Fabric sets it; hypothesis draws such numbers


@pytest.fixture(scope="session")
def tiny_teacher(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a teacher after three steps."""
    from videokd.runs import train

    out = tmp_path_factory.mktemp("teacher") / "teacher"
    train(as_config(teacher_recipe(tiny_index, out)), device="cpu", quiet=True)
    return out


@pytest.fixture(scope="session")
def tiny_control(tiny_index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a student after six steps of plain training, evaluated."""
    from videokd.runs import evaluate, train

    out = tmp_path_factory.mktemp("control") / "control"
    train(as_config(recipe(tiny_index, out)), device="cpu", quiet=True)
    evaluate(out, device="cpu", quiet=True)
    return out
