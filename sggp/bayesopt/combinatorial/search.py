"""The best products of a combinatorial space by a rule: exchange one reagent at a time, from the best there are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.combinatorial.contributions import Contributions
from sggp.bayesopt.combinatorial.effort import Effort, SearchReport
from sggp.bayesopt.combinatorial.marginals import additive_effects, best_combinations
from sggp.bayesopt.maximise import Look
from sggp.bayesopt.rules.base import Rule, mean_at
from sggp.bayesopt.spaces.pool import Pool
from sggp.errors import Exhausted
from sggp.molecules.reactions.library import NO_PRODUCT, ReactionLibrary, Recipe

_CROSSED = 5
_GOOD = 4
_KNOWN_BASES = 2
_BLOCK = 4096
_AT_ONCE = 20_000
"""Products looked at before that take part in a search: the most promising when they were last looked at."""


class Explored(NamedTuple):
    """A batch: the rule as it chose (over what was looked at), numbers (k,), values (k,), and what was done."""

    rule: Rule
    numbers: Tensor
    values: Tensor
    report: SearchReport


class Memory:
    """What searches of a library leave to the next ones.

    Attributes:
        expanded: numbers of the products all of whose neighbours were made.
        contributions: of the reagents, for where neighbours are too many.
    """

    def __init__(self, library: ReactionLibrary) -> None:
        self.expanded: set[int] = set()
        self.contributions = Contributions(library)
        self._hope = np.empty(0)

    def note(self, positions: np.ndarray, hope: np.ndarray) -> None:
        """Keep how promising products are, by position."""
        missing = int(positions.max()) + 1 - len(self._hope)
        if missing > 0:
            self._hope = np.concatenate([self._hope, np.full(missing, np.inf)])  # new ones come first
        self._hope[positions] = hope

    def most_promising(self, known: int) -> np.ndarray:
        """Positions, ascending, of those of `known` products that a search begins with."""
        if known <= _AT_ONCE:
            return np.arange(known)
        hope = np.concatenate([self._hope, np.full(max(0, known - len(self._hope)), np.inf)])[:known]
        return np.sort(np.argpartition(-hope, _AT_ONCE)[:_AT_ONCE])


class Exploration:
    """One search; see `Combinatorial.explore`.

    It begins with what earlier searches looked at, random combinations, and those of the reagents whose products the
    model likes best. A round takes the batch that the rule chooses among everything looked at, and makes all
    combinations that differ from its first few products, or from the best that is known, in one reagent, and those of
    the reagents of the best few with each other. It ends when the batch's first products have no neighbour left to be
    made, or with the effort.

    Args:
        library: the products.
        effort: how hard to look.
        memory: what earlier searches left, and this one adds to.
        rule, posterior, look: as in `Rule.pick`; `look.exclude` and `look.pending` are numbers.
        generator: for random combinations, and the seed of what the rule draws.
    """

    def __init__(
        self,
        library: ReactionLibrary,
        effort: Effort,
        memory: Memory,
        rule: Rule,
        posterior: Any,
        look: Look,
        generator: torch.Generator,
    ) -> None:
        self.library, self.effort, self.memory = library, effort, memory
        self.rule, self.posterior, self.look = rule, posterior, look
        seed = int(torch.randint(2**62, (1,), generator=generator))
        self._draw, self._seed = np.random.default_rng(seed), seed % 2**31
        closed = [np.asarray(torch.as_tensor(rows), dtype=np.int64) for rows in (look.exclude, look.pending)]
        self._closed = np.unique(library.positions(np.concatenate(closed)))
        self._closed = self._closed[self._closed != NO_PRODUCT]
        self._bases: set[int] = set()

    def run(self) -> Explored:
        """Search, and let the rule choose among everything that was looked at."""
        library, before = self.library, len(self.library.numbers)
        self.memory.contributions.accuracy = None
        self._visit(self._draw.integers(len(library), size=self.effort.random))
        self._enough()
        active = self.memory.most_promising(len(library.numbers))
        fresh = len(library.numbers)
        self._visit(self._of_good_reagents(active))
        active = np.concatenate([active, np.arange(fresh, len(library.numbers))])
        _, chosen, _ = self._pick(active)
        for _ in range(self.effort.rounds):
            bases = library.recipes(self._open_bases(chosen))
            if not bases:
                break
            fresh = len(library.numbers)
            self._visit(np.concatenate([self._crossed(chosen), *(self._neighbours(base) for base in bases)]))
            new = np.arange(fresh, len(library.numbers))
            if len(new):
                active = np.concatenate([active, new])
                _, chosen, _ = self._pick(np.union1d(chosen, new))
            if len(library.numbers) - before >= self.effort.products:
                break
        rule, chosen, values = self._pick(active)
        if len(library.numbers) > _AT_ONCE:
            self.memory.note(active, self._promise_at(active))
        report = SearchReport(
            looked_at=len(library.numbers),
            fresh=len(library.numbers) - before,
            bases=len(self._bases),
            converged=not self._open_bases(chosen),
            cut_accuracy=self.memory.contributions.accuracy,
        )
        return Explored(rule, torch.from_numpy(library.numbers[chosen]), values, report)

    def _visit(self, numbers: np.ndarray) -> None:
        self.library.make(np.unique(numbers))

    def _enough(self) -> None:
        """Look at random combinations until there are as many products as are asked for.

        Raises:
            Exhausted: there are not so many.
        """
        library, need = self.library, self.rule.batch_size + len(self._closed)
        tried = 0
        while len(library.numbers) < need:
            if tried > 50 * need or tried >= 4 * len(library):
                left = len(library.numbers) - len(self._closed)
                raise Exhausted(
                    f"{self.rule.batch_size} products are asked for but after {tried:,} combinations only {left} that "
                    f"were not asked for are known: {_most(library)}."
                )
            count = 2 * (need - len(library.numbers)) + 16
            whole = np.arange(len(library)) if len(library) <= count else None
            self._visit(self._draw.integers(len(library), size=count) if whole is None else whole)
            tried += 4 * len(library) if whole is not None else count

    def _pick(self, positions: np.ndarray) -> tuple[Rule, np.ndarray, Tensor]:
        """The rule's batch among products by position: the rule on these, positions (k,) and values (k,)."""
        pool = Pool(self.library.products.take(positions))
        rule = copy.copy(self.rule)
        rule.space = pool
        closed = np.flatnonzero(np.isin(positions, self._closed))
        look = replace(self.look, exclude=torch.from_numpy(closed), pending=())
        rows, values = rule.pick(self.posterior, look, torch.Generator().manual_seed(self._seed))
        return rule, positions[rows.numpy()], values

    def _open_bases(self, chosen: np.ndarray) -> list[int]:
        """Products to expand, by number: the first of the choice, and the best that are closed, not expanded yet."""
        known = self._best_closed
        own = [n for n in self.library.numbers[chosen].tolist() if self._expandable(n)]
        best = [n for n in self.library.numbers[known].tolist() if self._expandable(n)][:_KNOWN_BASES]
        return list(dict.fromkeys([*own[:1], *best, *own[1:]]))[: self.effort.bases]

    def _expandable(self, number: int) -> bool:
        return number < len(self.library) and number not in self._bases and number not in self.memory.expanded

    @cached_property
    def _best_closed(self) -> np.ndarray:
        """Positions of what was measured and is asked for, the best first by the mean."""
        if not len(self._closed):
            return self._closed
        means = self._means(self.library.products[self._closed])
        return self._closed[np.argsort(-self.rule.sign * means, kind="stable")]

    def _means(self, features: Tensor) -> np.ndarray:
        with torch.no_grad():
            return mean_at(self.posterior, features).to(torch.float64).cpu().numpy()

    def _of_good_reagents(self, positions: np.ndarray) -> np.ndarray:
        """Combinations of the reagents whose products have the best means, reaction by reaction."""
        means = self.rule.sign * self._means(self.library.products[positions])
        numbers = self.library.numbers[positions]
        inside = numbers < len(self.library)
        recipes = self.library.recipes(numbers[inside])
        owner = np.asarray([recipe.reaction for recipe in recipes])
        out = [np.empty(0, dtype=np.int64)]
        for own in np.unique(owner).tolist():
            rows = np.asarray([recipe.rows for recipe in recipes if recipe.reaction == own])
            sizes = self.library.reactions[own].sizes
            effects = additive_effects(means[inside][owner == own], rows, sizes)
            out.append(self._numbers(own, best_combinations(effects, _GOOD)))
        return np.concatenate(out)

    def _crossed(self, chosen: np.ndarray) -> np.ndarray:
        """The combinations of the reagents of the first few of a choice, reaction by reaction."""
        numbers = [n for n in self.library.numbers[chosen].tolist() if n < len(self.library)][:_CROSSED]
        recipes = self.library.recipes(numbers)
        out = [np.empty(0, dtype=np.int64)]
        for own in sorted({recipe.reaction for recipe in recipes}):
            rows = np.asarray([recipe.rows for recipe in recipes if recipe.reaction == own])
            grid = np.meshgrid(*(np.unique(column) for column in rows.T), indexing="ij")
            out.append(self._numbers(own, np.stack([axis.ravel() for axis in grid], axis=1)))
        return np.concatenate(out)

    def _numbers(self, reaction: int, rows: np.ndarray) -> np.ndarray:
        """All numbers of these combinations, those of their further products included."""
        return np.concatenate(
            [self.library.number(reaction, rows, which) for which in range(self.library.outcomes)]
        )

    def _neighbours(self, base: Recipe) -> np.ndarray:
        """The combinations that differ from the base in one reagent, the most promising of them where they are many."""
        number = int(self.library.number(base.reaction, [base.rows], base.which)[0])
        self._bases.add(number)
        sizes = self.library.reactions[base.reaction].sizes
        rows = np.concatenate([exchanged(base.rows, place, size) for place, size in enumerate(sizes)])
        if len(rows) > self.effort.cut:
            rows = self.memory.contributions.best(base, rows, self._promise, self.effort.cut)
        else:
            self.memory.expanded.add(number)
        return self._numbers(base.reaction, rows)

    def _promise_at(self, positions: np.ndarray) -> np.ndarray:
        table = self.library.products
        blocks = np.array_split(positions, -(-len(positions) // _BLOCK))
        return np.concatenate([self._promise(table[block]) for block in blocks])

    def _promise(self, features: Tensor) -> np.ndarray:
        """How promising products are, larger is better: the mean and a standard deviation of what is not known."""
        out = []
        for block in features.split(_BLOCK):
            with torch.no_grad():
                mean, variance = self.posterior.mean_and_variance(block)
            hope = self.rule.sign * mean.to(torch.float64) + variance.to(torch.float64).clamp_min(0.0).sqrt()
            out.append(hope.cpu().numpy())
        return np.concatenate(out)


def exchanged(rows: Sequence[int], place: int, size: int) -> np.ndarray:  # (size, components)
    """A combination with one reagent exchanged for each of its component."""
    out = np.tile(np.asarray(rows, dtype=np.int64), (size, 1))
    out[:, place] = np.arange(size)
    return out


def _most(library: ReactionLibrary) -> str:
    """Why combinations gave no product, in words."""
    found = [f"{count:,} {reason}" for reason, count in library.missing.most_common(3)]
    return "; ".join(found) or "the others give the same products"
