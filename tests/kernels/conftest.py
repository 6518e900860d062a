"""Runs the property tests on the engine that `sggp` chooses and on the torch reference."""

from __future__ import annotations

import pytest

from sggp.native import library


@pytest.fixture(params=["chosen", "reference"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "reference":
        monkeypatch.setattr(library, "available", lambda: False)
    return request.param
