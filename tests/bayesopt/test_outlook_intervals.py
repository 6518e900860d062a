"""Intervals of small whole numbers: they hold what they say on average, not more."""

from __future__ import annotations

import pytest
import torch

from sggp.bayesopt.outlook.answer import interval


def test_intervals_of_whole_numbers_hold_nine_tenths_on_average() -> None:
    """Exact probabilities of binomial numbers of many means, as so many equal values each."""
    numbers, inside, at_least = torch.arange(11, dtype=torch.float64), [], []
    for p in torch.linspace(0.02, 0.98, 97, dtype=torch.float64):
        chances = torch.distributions.Binomial(10, p).log_prob(numbers).exp()
        low, high = map(int, interval(numbers.repeat_interleave((1e5 * chances).round().long())))
        inside.append(float(chances[low : high + 1].sum()))
        assert float(chances[:low].sum()) < 0.1
        assert float(chances[high + 1 :].sum()) < 0.1
        up_to = chances.cumsum(0)
        wide = slice(int((up_to < 0.05).sum()), int((up_to < 0.95).sum()) + 1)
        at_least.append(float(chances[wide].sum()))
    average, cautious = sum(inside) / len(inside), sum(at_least) / len(at_least)
    assert 0.9 < average < 0.935
    assert cautious > 0.955


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((4, 20, 76), (1.0, 2.0)),
        ((12, 20, 68), (0.0, 2.0)),
        ((3, 94, 3), (1.0, 1.0)),
        ((0, 0, 5), (2.0, 2.0)),
    ],
)
def test_an_end_counts_by_half(counts: tuple[int, ...], expected: tuple[float, float]) -> None:
    assert interval(torch.arange(3.0).repeat_interleave(torch.tensor(counts))) == expected
