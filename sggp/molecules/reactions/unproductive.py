"""Reagents that match their component and yet give no product."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np

from sggp.molecules.reactions.filters import ProductFilter
from sggp.molecules.reactions.reaction import Reaction, Refused, mixed_radix

TRIES = 16
"""Combinations that a reagent is tried in before it counts as one that gives no product."""


def unproductive(reaction: Reaction, keep: ProductFilter, tries: int = TRIES) -> list[Refused]:
    """Reagents of which no combination that was tried gives a product that passes the filter.

    First every reagent is tried once, many in one combination; those that gave nothing are then tried with others that
    have given a product, as long as any is known to. Partners are drawn at random, the same ones every time.

    Args:
        reaction: the reagents.
        keep: which products are let through.
        tries: combinations that a reagent gets, fewer only where there are fewer.

    Cost: 0.25 ms for each reagent of the longest list, and `tries` times that for each that gives nothing.
    """
    from sggp.molecules.reactions._reactor import first_refusal  # RDKit is an extra

    def refused(rows: tuple[int, ...]) -> str:
        return first_refusal(reaction.smarts, reaction.reagents(rows), keep)

    draw = np.random.default_rng(0)
    longest = max(reaction.sizes)
    once = np.stack([np.resize(draw.permutation(size), longest) for size in reaction.sizes], axis=1)
    works = np.asarray([not refused(tuple(rows)) for rows in once.tolist()])
    good = [np.unique(column[works]) for column in once.T]
    out = []
    for place, size in enumerate(reaction.sizes):
        partners = [own if len(own) else np.arange(n) for own, n in zip(good, reaction.sizes, strict=True)]
        for reagent in np.setdiff1d(np.arange(size), good[place]).tolist():
            partners[place] = np.asarray([reagent])
            reasons = Counter[str]()
            for rows in _some(partners, tries, draw):
                if not (reason := refused(rows)):
                    break
                reasons[reason] += 1
            else:
                out.append(reaction.components[place].refused(reagent, place + 1, _why(reasons)))
    return out


def _some(lists: list[np.ndarray], count: int, draw: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Some different combinations of one entry of each list, spread over all of them."""
    total = math.prod(map(len, lists))
    step = round(total * 0.618) or 1
    while math.gcd(step, total) > 1:
        step += 1
    start = int(draw.integers(total))
    numbers = np.asarray([(start + t * step) % total for t in range(min(count, total))])
    for digits in mixed_radix(numbers, [len(own) for own in lists]).tolist():
        yield tuple(int(own[digit]) for own, digit in zip(lists, digits, strict=True))


def _why(reasons: Counter[str]) -> str:
    total = reasons.total()
    (common, _), *others = reasons.most_common()
    also = f", or {others[0][0]}" if len(others) == 1 else f", and {len(others)} other reasons" * bool(others)
    if total == 1:
        return f"kept, though the one combination tried gives no product: {common}"
    return f"kept, though none of {total} combinations tried gives a product: {common}{also}"
