"""Processes killed at random moments of every call, the creation of the file included: see `benchmarks/kills.py`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(
    not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL"
)
def test_kills_lose_nothing_and_change_no_batch(scripts):
    run = scripts.run(SCRIPT, "--kills", 8, "--modes", "create", "store", "--seed", 3)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing lost, nothing twice" in run.stdout
