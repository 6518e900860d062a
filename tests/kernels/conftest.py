"""Runs the property tests on the engine that `sggp` chooses and on the torch reference."""

from __future__ import annotations

import pytest

from sggp.kernels import stationary, tanimoto_covariance
from sggp.native import reference


@pytest.fixture(params=["chosen", "reference"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "reference":
        for module in (stationary, tanimoto_covariance):
            monkeypatch.setattr(module, "engine", lambda device, dtype: reference)
    return request.param
