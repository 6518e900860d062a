"""The ranks of a run: 1, 2 and 4 of them by gloo on the CPU, started once each, and what they saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.scripts import ROOT, Scripts

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)
SIZES = (1, 2, 4)
CLOSE = {"fit mean": 1e-3}
"""What a solve leaves open; the rest agrees to rounding, or to what a tolerance of 1e-6 leaves."""


@pytest.fixture(scope="module")
def saved(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that `program.py` saves."""
    folder = tmp_path_factory.mktemp("ranks")
    done = scripts.run(ROOT / "tests" / "parallel" / "program.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def of_ranks(saved: Path, name: str, size: int) -> list[dict[str, Any]]:
    return [torch.load(saved / name / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_ranks_find_what_one_process_finds(saved: Path, size: int) -> None:
    expected = torch.load(saved / "one.pt", weights_only=True)["everything"]
    first = of_ranks(saved, f"alike-{size}", size)[0]
    assert first["size"] == size
    assert first["everything"].keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            first["everything"][name], value, rtol=0, atol=scale * CLOSE.get(name, 1e-5), msg=name
        )


@pytest.mark.parametrize("size", SIZES)
def test_all_ranks_hold_the_same_bits(saved: Path, size: int) -> None:
    first, *others = of_ranks(saved, f"alike-{size}", size)
    for other in others:
        for part in ("everything", "chance"):
            assert all(torch.equal(other[part][name], value) for name, value in first[part].items())


@pytest.mark.parametrize("size", SIZES)
def test_chance_and_clocks_are_those_of_the_first(saved: Path, size: int) -> None:
    chance = of_ranks(saved, f"alike-{size}", size)[-1]["chance"]
    assert chance["agreed"].tolist() == [0.5, 7.0]
    assert chance["map"].tolist() == [0, 1, 4, 9, 16]
    assert int(chance["iterations within a time"]) > 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("another_seed", "hold different numbers"),
        ("another_table", "hold different numbers (right-hand sides)"),
        ("another_kernel", "hold different numbers"),
        ("another_lengthscale", "hold different numbers"),
        ("another_place", "something of another kind or size"),
        ("alone", "rank 0 is about to gather and rank 1 to leave the block"),
    ],
)
def test_ranks_that_diverge_are_told(saved: Path, mistake: str, said: str) -> None:
    for found in of_ranks(saved, "wrong", 2):
        assert found[mistake].startswith("RanksDiverged: ")
        assert said in found[mistake]
        assert "pass a seed" in found[mistake]


def test_refusals_on_every_rank(saved: Path) -> None:
    for found in of_ranks(saved, "wrong", 2):
        assert "has no len()" in found["map"]
        assert found["map error"] == "OfTwo: reactor number 1"
        for name in ("map result", "shared result"):
            assert "cannot be pickled for the other ranks" in found[name]
        assert "another `with sggp.distributed()`" in found["inner block"]
        assert "has ended" in found["outside"]


def test_a_rank_that_was_killed_is_named(saved: Path) -> None:
    said = torch.load(saved / "killed" / "0.pt", weights_only=True)["said"]
    assert said.startswith("RankLost: rank 0 of 2 stops: lost rank 1 ")
    assert "with checkpoint= goes on" in said


def test_the_error_of_a_rank_is_told_to_the_others(saved: Path) -> None:
    first, second = of_ranks(saved, "fails", 2)
    assert "lost rank 1 (ValueError: the disk is full)" in first["said"]
    assert second["said"] == "ValueError: the disk is full"


@pytest.mark.parametrize("size", [1, 4])
def test_a_killed_solve_goes_on_with_another_number_of_ranks(saved: Path, size: int) -> None:
    unbroken = torch.load(saved / "one.pt", weights_only=True)["x"]
    assert not (saved / "killed" / "1.pt").exists()
    for found in of_ranks(saved, f"alike-{size}", size):
        assert found["size"] == size
        assert any(note.startswith("resumed from") for note in found["resumed"]["notes"])
        torch.testing.assert_close(found["resumed"]["x"], unbroken, rtol=1e-9, atol=1e-9)
