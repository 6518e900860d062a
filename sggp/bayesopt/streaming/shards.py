"""What is looked for in a library, and the unit of work: one file in, a short list out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.rules import Rule, make_rule
from sggp.bayesopt.rules.base import mean_and_std, mean_at
from sggp.bayesopt.rules.scores import SLACK, ScoreRule, has_bounds
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.streaming.shortlist import Deepest, Frontier, Lists, Molecule, Shortlist
from sggp.checks import as_path, flag, one_of, whole_number
from sggp.errors import InputError
from sggp.molecules import SmilesFingerprinter
from sggp.molecules.encoding.parts import COMBINED
from sggp.molecules.featurise import encode_all
from sggp.molecules.files.stream import BadRow, read_blocks, read_form
from sggp.molecules.packed import PackedCounts
from sggp.molecules.properties import property_of_each
from sggp.random import as_generator, streams

STREAM_RULES = ("thompson", "tempered", "ucb", "ei", "greedy")
LINES = 2**40
"""More than a file has lines: row = shard · LINES + line."""
BLOCK = 16_384
_DENSE = 4096
_TOGETHER = 1024
"""Rows that are solved for before it is asked again which others may stay."""
_SPARE = 16
"""Rows beyond those that are needed, so that rounding decides nothing about equal ones."""
_EXAMPLES, _KINDS = 1000, 100
_PAIRS = [[first, second] for first in (str, NoneType) for second in (str, NoneType)]
_NUMBER = re.compile(r"\d+")


class Unused(NamedTuple):
    """A line of a shard that was not used, and why."""

    shard: int
    line: int
    reason: str
    content: str


@dataclass(frozen=True)
class Found:
    """What was found in some shards: small, picklable, and joined by `LibrarySearch.reduce`.

    Attributes:
        shortlist: the rows that may yet be chosen.
        rows: how many rows were read, the unusable ones included.
        unusable: how many of them could not be used.
        reasons: how often for which reason, numbers in it written as N; the first 100 reasons.
        examples: the first 1,000 of them.
    """

    shortlist: Shortlist = field(default_factory=Shortlist)
    rows: int = 0
    unusable: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: tuple[Unused, ...] = ()


class Step(NamedTuple):
    """A shard up to a line: what was found in it, and how many bytes of its file are done."""

    found: Found
    line: int
    position: int


@dataclass(frozen=True)
class LibrarySearch:
    """Look for the next batch in files of molecules, each read once.

    `shard` is a pure function from a file to what was found in it and `reduce` joins what was found, in any order:
    `suggest_from_files` runs them here or on any executor, and so may you (joblib, Dask, Ray, torchrun).

    For "thompson" and "tempered" a shard keeps for slot i of the batch the i best rows of its function, for "ucb" and
    "greedy" the rows that the rule looks at (3 batches, or more where a posterior is large), for "ei" those that may
    be among these for any best mean above the present one. The batch that the rule then chooses among the rows that
    were kept is the one that it chooses from a `Pool` of the whole library where each molecule stands once, up to
    rounding where more than 16 rows are equal.

    Args:
        posterior: of fingerprints, as `fit_surrogate(...).posterior`, with as many sample paths as the rule needs.
        rule: "thompson", "tempered", "ucb", "ei" or "greedy". "top-k" counts members of the best hundredth of the
            library, which has no short list, and "hypervolume" is for several objectives.
        batch_size: molecules to choose.
        maximize: False when smaller values are better.
        exclude: SMILES never to propose (measured, pending); compared by canonical SMILES.
        fingerprinter: the fingerprint of the posterior, and `n_jobs`; None takes the parts of a `FingerprintTable`.
        seed: for the choice of paths where the posterior carries more than are needed.
        columns: names of the columns of SMILES and ids; None guesses them for each file.
        block: lines at a time; the memory is that of a block.

    Raises:
        InputError: another rule, a setting out of range, too few sample paths, or a posterior of another width.
        MoleculeError: a SMILES of `exclude` cannot be parsed.
    """

    posterior: Any
    rule: str
    batch_size: int
    maximize: bool = True
    exclude: Iterable[str] = ()
    fingerprinter: SmilesFingerprinter | None = None
    seed: int = 0
    columns: tuple[str | None, str | None] = (None, None)
    block: int = BLOCK

    def __post_init__(self) -> None:
        one_of(self.rule, "the rule of a stream", STREAM_RULES)
        whole_number(self.batch_size, "batch_size")
        whole_number(self.seed, "seed", least=None)
        whole_number(self.block, "block")
        flag(self.maximize, "maximize")
        if isinstance(self.exclude, str):
            raise InputError(
                f"exclude must be a list of SMILES, got {self.exclude!r:.60}: put it in brackets."
            )
        pair: Any = self.columns
        if not isinstance(pair, tuple | list) or [*map(type, pair)] not in _PAIRS:
            raise InputError(f"columns must be the names of two columns, None for a guess; got {pair!r:.60}.")
        given = list(self.exclude)
        known = frozenset(property_of_each(given, "canonical SMILES")) if given else frozenset()
        object.__setattr__(self, "exclude", known)
        own = self.fingerprinter or SmilesFingerprinter(parts=COMBINED)
        object.__setattr__(self, "fingerprinter", own)
        width = int(self.posterior.x.shape[-1])
        if width != own.settings.width:
            raise InputError(
                f"the posterior is that of fingerprints of {width} columns and the fingerprinter gives "
                f"{own.settings.width}: give the one that the measured molecules were encoded with."
            )
        if self._rule.needs_paths(self.posterior):
            have, need = int(self.posterior.samples.num_samples), self._rule.num_samples
            if have < need:
                raise InputError(f"the posterior carries {have} sample paths but the rule needs {need}.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def on(self, pool: Pool) -> Rule:
        """The rule over a pool."""
        return make_rule(self.rule, pool, self.batch_size, maximize=self.maximize)

    def shard(self, path: str | Path, number: int = 0) -> Found:
        """What is found in one file, which counts as shard `number`: of equal rows the first shard's is taken.

        Raises:
            DataFileError: the file cannot be read line by line, has no column of SMILES, or is damaged.
            InputError: no path, or a number below 0.
        """
        path, number = as_path(path, "path"), whole_number(number, "number", least=0)
        last = Found()
        for step in self.steps(path, number):
            last = step.found
        return last

    def steps(self, path: Path, number: int, after: Step | None = None) -> Iterator[Step]:
        """`shard` after every block of lines, from a step that was taken earlier on."""
        smiles, name = self.columns
        form = read_form(path, smiles_column=smiles, id_column=name)
        found = Found() if after is None else after.found
        for block in read_blocks(form, after=0 if after is None else after.line, size=self.block):
            found = self._with_block(found, block.rows, block.bad, number)
            yield Step(found, block.line, block.position)

    def reduce(self, *parts: Found) -> Found:
        """What was found in several shards together; the order of the parts does not matter."""
        total = Found()
        for part in parts:
            kept = self._lists.cut(total.shortlist.joined(part.shortlist))
            total = _tallied(total, part, kept)
        return total

    def values(self, features: Tensor, *, hoped: bool = False) -> np.ndarray:
        """(p, n) float64: what decides about rows of fingerprints (n, width), larger being better, on p lists.

        With `hoped`, of a posterior that has bounds, they are those of an upper bound of the standard deviation.
        """
        rule = self._rule
        with torch.no_grad():
            if not isinstance(rule, ScoreRule):
                out = rule.sign * self._functions(features)
            elif not rule.needs_std:
                out = rule.sign * mean_at(self.posterior, features)[None]
            else:
                if self._bounded:
                    how = "bound" if hoped else "solve"
                    mean, variance = self.posterior.mean_and_variance(features, method=how)
                    std = variance.to(torch.float64).clamp_min(1e-20).sqrt() * (SLACK if hoped else 1.0)
                    mean = mean.to(torch.float64)
                else:
                    mean, std = mean_and_std(self._look[0], features)
                mean = rule.sign * mean
                out = torch.stack([mean, mean, std]) if rule.needs_best else rule.score(mean, std, 0.0)[None]
        values = out.to(torch.float64).cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError("the posterior gave a value that is not finite: see posterior.solution for why.")
        return values

    @property
    def _bounded(self) -> bool:
        """Whether standard deviations are solved for only where an upper bound of them says that a row may stay."""
        return isinstance(self._rule, ScoreRule) and self._rule.needs_std and has_bounds(self.posterior)

    @cached_property
    def _rule(self) -> Rule:
        """The rule over rows that stand for those not yet read: what it needs of a pool is its kind."""
        return self.on(Pool(torch.arange(self.batch_size)[:, None], kind="counts"))

    @cached_property
    def _functions(self) -> Any:
        pick, _ = streams(
            as_generator(self.seed), "thompson paths", "thompson candidates"
        )  # as `Rule.choose`
        return self._rule.functions(self.posterior, pick)

    @cached_property
    def _look(self) -> tuple[Any, int]:
        rule: Any = self._rule
        return rule.first_look(self.posterior)

    @cached_property
    def _lists(self) -> Lists:
        rule = self._rule
        if not isinstance(rule, ScoreRule):
            return Deepest(np.arange(1, self.batch_size + 1) + _SPARE)
        depth = self._look[1] + _SPARE
        if not rule.needs_best:
            return Deepest(np.asarray([depth]))

        def score(mean: np.ndarray, std: np.ndarray, best: float) -> np.ndarray:
            return rule.score(torch.from_numpy(mean), torch.from_numpy(std), best).numpy()

        return Frontier(self.batch_size, depth, score)

    def _with_block(self, found: Found, rows: list[Any], bad: list[BadRow], number: int) -> Found:
        own: Any = self.fingerprinter
        texts = [row.smiles for row in rows]
        encoded = encode_all(texts, own.settings, canonical=False, n_jobs=own.n_jobs)
        wrong = {place: reason for place, _, reason in encoded.invalid}
        bad = [*bad, *(BadRow(rows[place].line, texts[place], reason) for place, reason in wrong.items())]
        part = Found(
            rows=len(rows) + len(bad) - len(wrong),
            unusable=len(bad),
            reasons=dict(Counter(_NUMBER.sub("N", row.reason) for row in bad)),
            examples=tuple(Unused(number, row.line, row.reason, row.content) for row in sorted(bad)),
        )
        good = np.asarray([place for place in range(len(rows)) if place not in wrong], dtype=np.int64)
        packed = PackedCounts.pack(encoded.sizes, encoded.columns, encoded.counts, own.settings.width)
        kept = self._kept(found.shortlist, [rows[place] for place in good], packed.take(good), number)
        return _tallied(found, part, kept)

    def _kept(self, kept: Shortlist, rows: list[Any], packed: PackedCounts, number: int) -> Shortlist:
        """The short list with these rows of one shard."""
        every = np.arange(len(rows))
        pieces, hopes = [every], None
        if self._bounded and len(rows):
            hopes = self._over(packed, every, hoped=True)
            order = np.argsort(-(hopes[0] + (0.0 if len(hopes) == 1 else 2.0 * hopes[-1])), kind="stable")
            first = self._look[1] + _SPARE
            cuts = range(first, len(order), _TOGETHER)
            pieces = np.split(
                order, cuts
            )  # the best hopes first: they say of the others that they cannot stay
        for piece in pieces:
            if hopes is not None:
                piece = np.sort(piece[self._lists.enter(kept, hopes[:, piece])])
            if not len(piece):
                continue
            values = self._over(packed, piece)
            inside = np.flatnonzero(self._lists.enter(kept, values))
            if len(inside):
                entering = self._entering([rows[place] for place in piece[inside]], values[:, inside], number)
                kept = self._lists.cut(kept.joined(entering))
        return kept

    def _over(self, packed: PackedCounts, rows: np.ndarray, *, hoped: bool = False) -> np.ndarray:
        """`values` of these rows, a part at a time."""
        parts = [rows[start : start + _DENSE] for start in range(0, len(rows), _DENSE)]
        return np.concatenate(
            [self.values(torch.from_numpy(packed.dense(part)), hoped=hoped) for part in parts], axis=1
        )

    def _entering(self, rows: list[Any], values: np.ndarray, number: int) -> Shortlist:
        """All of these rows with their values (p, n)."""
        names = property_of_each([row.smiles for row in rows], "canonical SMILES")
        known: Any = self.exclude
        free = np.asarray([name not in known for name in names], dtype=bool)
        lists, place = self._lists.entries(values, free)
        key = np.asarray([number * LINES + row.line for row in rows], dtype=np.int64)
        molecules = {
            int(k): Molecule(row.smiles, row.id, name) for k, row, name in zip(key, rows, names, strict=True)
        }
        every = Shortlist(lists, key[place], values[lists, place], molecules)
        return every.where(np.ones(len(lists), dtype=bool))


def _tallied(total: Found, part: Found, kept: Shortlist) -> Found:
    """The counts of both with this short list."""
    reasons = dict(total.reasons)
    for reason, times in part.reasons.items():
        if reason in reasons or len(reasons) < _KINDS:
            reasons[reason] = reasons.get(reason, 0) + times
    examples = tuple(sorted((*total.examples, *part.examples))[:_EXAMPLES])
    return Found(kept, total.rows + part.rows, total.unusable + part.unusable, reasons, examples)
