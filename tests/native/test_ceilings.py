"""Ceilings: their arithmetic by hand, and that every one can be measured."""

from __future__ import annotations

import pytest
import torch

from sggp.native import ceilings, cpu

MEASURED = {
    "matrix product": 80e9,
    "tile product": 100e9,
    "exp": 1e9,
    "tile evaluation": 2e9,
    "bit count": 8e9,
    "memory": 10e9,
    "new memory": 4e9,
}


def test_bounds_are_those_of_the_formula():
    assert ceilings.multiply_adds(MEASURED) == 100e9
    # d = 26, s = 65: 0.5 ns + 50 / 100 ns = 1 ns of evaluation, 1.3 ns of product
    most, reachable = ceilings.stationary_bound(MEASURED, 26, 65)
    assert most == pytest.approx(1 / 1.3e-9)
    assert reachable == pytest.approx(1 / 2.3e-9)
    most, _ = ceilings.stationary_bound(MEASURED, 1, 1)
    assert most == pytest.approx(2e9)
    assert ceilings.bits_bound(MEASURED, 32) == pytest.approx(8e9 / 32)
    assert ceilings.bits_bound(MEASURED, 8, entry_bytes=4) == pytest.approx(0.5e9)
    warm = {name: rate for name, rate in MEASURED.items() if name != "new memory"}
    assert ceilings.bits_bound(warm, 8, entry_bytes=4) == pytest.approx(1 / 1.4e-9)


def test_without_the_engine_torch_sets_the_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings.library, "available", lambda: False)
    works = ceilings.works(size=1e-3)
    assert set(works) == {"matrix product", "memory", "exp"}
    measured = {name: MEASURED[name] for name in works}
    assert ceilings.stationary_bound(measured, 1, 0)[0] == pytest.approx(1e9)


def test_every_work_runs_and_counts_what_it_does(dtype):
    works = ceilings.works(dtype, size=1e-3)
    assert set(works) == set(MEASURED) if cpu.available() else {"matrix product", "memory", "exp"}
    for work in works.values():
        work.call()
        assert work.amount > 0
    for isa in cpu.instruction_sets():
        for work in ceilings.works(dtype, isa=isa, size=1e-3).values():
            work.call()
    if cpu.available():  # more threads do as much each
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2 * threads)
            doubled = ceilings.works(dtype, size=1e-3)
        finally:
            torch.set_num_threads(threads)
        assert doubled["bit count"].amount == 2 * works["bit count"].amount


def test_calls_take_turns_and_the_first_round_is_not_timed():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = ceilings.alternate(calls, 2)
    assert "".join(order) == "abc" + "abc" + "bca"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    works = {"a": ceilings.Work(lambda: None, 6.0, "FLOP")}
    assert ceilings.rates(works, {"a": [1.0, 3.0, 2.0]}) == {"a": 3.0}
