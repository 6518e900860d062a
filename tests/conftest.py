"""Fixtures shared by all tests.

torch is imported where it is used: the process that hands tests to pytest-xdist's workers needs none.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scripts import Scripts
from tests.searches import shortened

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """One torch thread per xdist worker, unless said otherwise: more would only wait for one another."""
    if "PYTEST_XDIST_WORKER" in os.environ and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays until the end: Python's collector need look at none of it, now or in the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The second worker collects from the end: in a fresh clone each rewrites the asserts of half of the files."""
    report = yield
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" and isinstance(collector, pytest.Directory):
        report.result.reverse()
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs scripts comes first: one of two workers takes it all, with one server, and short tests end the run.

    The rest is in the order of files, by whichever worker.
    """
    items.sort(key=lambda item: ("scripts" not in getattr(item, "fixturenames", ()), item.path))


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
    import torch

    return torch.Generator().manual_seed(20231)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Runs the test in both working precisions."""
    import torch

    return getattr(torch, request.param)


def _process_wide() -> dict[str, Any]:
    """What tests and the code they run are to leave as it was: whoever comes next would find it."""
    import torch

    logger = logging.getLogger("sggp")  # one of many, which are silenced together
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "loggers": (logger.disabled, logger.level, logging.root.level),
        "environment": {name: value for name, value in os.environ.items() if name.startswith("SGGP_")},
    }


@pytest.fixture(autouse=True)
def _no_global_leaks() -> Iterator[None]:
    """A test that changes what is process-wide would change the tests after it, in one order of many."""
    import torch

    before = _process_wide()
    yield
    after = _process_wide()
    torch.set_default_dtype(before["default dtype"])
    assert after == before


@pytest.fixture
def short_searches() -> Iterator[None]:
    """See `tests.searches`."""
    with shortened():
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of downloaded data sets named by SGGP_DATA_DIR; skips the test where there is none."""
    name = os.environ.get("SGGP_DATA_DIR")
    if not name or not Path(name).is_dir():
        pytest.skip("SGGP_DATA_DIR is not set: tests on the published data sets need it")
    return Path(name)
