"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.scripts import Scripts

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """One torch thread per xdist worker, unless said otherwise: more would only wait for one another."""
    if "PYTEST_XDIST_WORKER" in os.environ and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What torch logs reaches the root logger: pytest would else visit its loggers, some forty, six times a test."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.split(".")[0] == "torch":
            logger.propagate = True


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def scripts() -> Iterator[Scripts]:
    """What runs scripts in processes of their own."""
    started = Scripts()
    yield started
    started.close()


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded CPU generator, new for every test."""
    return torch.Generator().manual_seed(20231)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Runs the test in both working precisions."""
    return request.param


@pytest.fixture(autouse=True)
def _no_global_leaks() -> Iterator[None]:
    """A test, or the code it runs, that changes the default dtype would change the tests after it."""
    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)
    if after != before:
        pytest.fail(f"the default dtype was changed from {before} to {after}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of downloaded data sets named by SGGP_DATA_DIR; skips the test where there is none."""
    name = os.environ.get("SGGP_DATA_DIR")
    if not name or not Path(name).is_dir():
        pytest.skip("SGGP_DATA_DIR is not set: tests on the published data sets need it")
    return Path(name)
