"""The table of kernel families, and that no engine computes one family in place of another."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from sggp.errors import InputError, MemoryBudgetError, UnsupportedKernel
from sggp.native import conditionals, cpu, engine, engines, library, local, neighbours, reference
from sggp.native.families import FAMILIES, Profile
from tests.catalogue import FAMILIES as ROWS

needs_library = pytest.mark.skipif(not library.available(), reason="the C++ engine is not built")


def test_every_family_has_a_place_of_its_own_and_a_row_in_the_catalogue():
    assert sorted(family.code for family in FAMILIES.values()) == list(range(len(FAMILIES)))
    assert {row.name: row.alpha is not None for row in ROWS} == {
        name: family.shaped for name, family in FAMILIES.items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_slopes_are_those_of_the_values(name):
    profile = Profile(name, 1.7, 0.6 if FAMILIES[name].shaped else None)
    r2, step = torch.linspace(0.1, 30.0, 40, dtype=torch.float64), 1e-5
    above, below = (reference.profile_values(r2 + h, profile) for h in (step, -step))
    # the third derivative is at most r2^-2.5 here: the difference is within 1e-7, rounding adds 1e-11
    found = reference.profile_slope(r2.clone(), profile)
    torch.testing.assert_close(found, (above - below) / (2 * step), rtol=0, atol=1e-7)


@needs_library
@pytest.mark.parametrize("code", [-1, len(FAMILIES), 1000])
def test_the_engine_refuses_a_family_it_does_not_have(code, monkeypatch):
    monkeypatch.setitem(FAMILIES, "cosine", replace(FAMILIES["rbf"], name="cosine", code=code))
    profile = Profile("cosine")
    x, columns = torch.zeros(4, 2, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    ones, index = torch.ones(4, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.long)
    calls = [
        lambda: cpu.stationary_block(x, x, profile),
        lambda: cpu.stationary_matmul(x, x, columns, profile),
        lambda: cpu.stationary_gradient(x, x, columns, columns, profile),
        lambda: neighbours.sparse_columns(x, profile, ones, None, index, index == 0),
        lambda: local.small_stationary(x[None], ones[:2], profile),
        lambda: neighbours.residual_scores(x, profile, x.float(), ones.float(), index[:, 0], index),
        lambda: conditionals.log_conditionals(
            x, ones[:2], profile, conditionals.Rows(index, columns[:, None], ones[0])
        ),
    ]
    for call in calls:
        with pytest.raises(UnsupportedKernel, match="no such family"):
            call()


def test_no_profile_without_a_family():
    with pytest.raises(InputError, match="unknown family"):
        Profile("cosine")


@needs_library
def test_a_budget_below_one_tile_is_told_once(caplog, monkeypatch):
    engines._said.clear()
    caplog.set_level(logging.WARNING)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator)
    v, profile, budget = torch.randn(40, 3, generator=generator), Profile("rbf"), 2**16
    with pytest.raises(MemoryBudgetError):
        cpu.stationary_matmul(x, x, v, profile, budget)
    chosen = engine("cpu", torch.float32)
    for bytes_ in (budget, budget, budget - 1):
        found = chosen.stationary_matmul(x, x, v, profile, bytes_)
    torch.testing.assert_close(found, reference.stationary_matmul(x, x, v, profile, budget))
    (said,) = [record.message for record in caplog.records if "slower" in record.message]
    assert "memory_budget=65536" in said


def test_without_the_library_every_function_is_torchs(monkeypatch):
    monkeypatch.setattr(library, "available", lambda: False)
    chosen = engine("cpu", torch.float64)
    assert chosen is engines.TORCH
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    for before in (None, torch.arange(50)):
        found = chosen.nearest(x, x, 4, before=before)
        distance = torch.cdist(x.double(), x.double())
        if before is not None:
            distance = distance.masked_fill(torch.arange(50) >= before[:, None], torch.inf)
        value, index = distance.topk(4, largest=False)
        assert torch.equal(found, index.masked_fill(value.isinf(), -1))
    assert chosen.nearest(x, x[:0], 4, before=torch.arange(0)).shape == (0, 4)
    assert chosen.max_min_order(x) is None
