"""Rows that repeat: which they are, whatever type they have and whatever their codes say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.posterior import merge
from sggp.posterior.merge import group_rows


def by_comparison(x):
    """First rows in order of appearance and the group of each row, by comparing all with all."""
    equal = (x[:, None] == x[None]).all(-1)
    leader = equal.double().argmax(1)
    first = leader.unique()
    return first, torch.searchsorted(first, leader)


def table(dtype, d, generator):
    x = torch.randint(0, 2, (60, d), generator=generator)
    if dtype.is_floating_point:
        x = torch.where(
            torch.rand(60, d, generator=generator) < 0.5, -x.to(dtype), x.to(dtype)
        )  # −0 among them
    return x[:, :3].repeat(1, d // 3).to(dtype) if d > 8 else x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("d", [1, 3, 8, 900])
@pytest.mark.parametrize("codes", ["as they are", "all the same"])
def test_equal_rows_are_one_group(dtype, d, codes, generator, monkeypatch):
    if codes == "all the same":
        for name in ("_codes", "_hashes"):
            monkeypatch.setattr(merge, name, lambda words: np.zeros(len(words), dtype=np.uint64))
    monkeypatch.setattr(merge, "_BLOCK", 7)
    x = table(dtype, d, generator)
    first, member = by_comparison(x)
    found = group_rows(x)
    assert torch.equal(found.first, first)
    assert torch.equal(found.member, member)
    distinct = group_rows(x[first])
    assert distinct.trivial
    assert torch.equal(distinct.member, torch.arange(len(first)))


def test_rows_without_columns_are_equal():
    found = group_rows(torch.zeros(4, 0))
    assert found.first.tolist() == [0]
    assert found.member.tolist() == [0, 0, 0, 0]


def test_codes_differ_by_order_of_words_and_by_one_bit(generator):
    words = torch.randint(-(2**62), 2**62, (2000, 2), generator=generator).numpy().view(np.uint64)
    variants = [words, words[:, ::-1], words ^ np.uint64(1), words ^ np.uint64(2**63)]
    codes = merge._codes(np.concatenate(variants))
    assert len(np.unique(codes)) == len(codes)
    assert len(np.unique(codes % np.uint64(2**20))) > 7900  # and so do their lower halves, mostly
