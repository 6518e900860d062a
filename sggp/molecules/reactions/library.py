"""The products of reactions by number, made when they are looked at."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sggp.checks import whole_number
from sggp.errors import DtypeError, InputError
from sggp.molecules.encoding.parts import COMBINED
from sggp.molecules.featurise import encode_all
from sggp.molecules.fingerprinter import SmilesFingerprinter
from sggp.molecules.packed import PackedCounts, PackedStrings
from sggp.molecules.reactions.filters import ProductFilter
from sggp.molecules.reactions.produce import produce
from sggp.molecules.reactions.reaction import Reaction, Refused, mixed_radix
from sggp.molecules.reactions.store import Kept, ProductStore, product_key
from sggp.molecules.reactions.unproductive import unproductive
from sggp.molecules.table import FingerprintTable

_LOGGER = logging.getLogger(__name__)
_MOST = 2**62
NO_PRODUCT = -1


class Recipe(NamedTuple):
    """What a combination is: its reaction, the row of each reagent, and which of its products."""

    reaction: int
    rows: tuple[int, ...]
    which: int


class ReactionLibrary:
    """All products of some reactions, by number; nothing but what was looked at is ever in memory.

    Number i stands for one reaction and one reagent of each of its components. Two numbers may give one product, which
    is kept once, under the first number: `products` are those that were looked at, and `make` says where among them a
    combination is. Molecules from elsewhere (`add`) have numbers from len on.

    Args:
        reactions: one or more.
        filters: which products are let through; None is all of them.
        fingerprinter: settings and `n_jobs`; by default the five parts of a `FingerprintTable`.
        outcomes: how many different products of a combination are counted, in the order of their canonical SMILES, each
            with a number of its own. With 1 a combination whose reagents match in several places stands for the first.
        cache: folder in which products are kept for the next time; not used with a filter that is a function.
        progress: called with how many products of a call are done, and of how many.

    Raises:
        DtypeError, InputError: no reactions, two of one name, more than 2^62 combinations, or a setting out of range.
        DataFileError: the cache cannot be used.

    Cost: 0.25 ms for a product and 1.1 ms for its fingerprint of five parts, per core; 1 kB of memory each.
    """

    def __init__(
        self,
        reactions: Reaction | Sequence[Reaction],
        *,
        filters: ProductFilter | None = None,
        fingerprinter: SmilesFingerprinter | None = None,
        outcomes: int = 1,
        cache: str | os.PathLike[str] | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        given: Any = reactions
        self.reactions: list[Reaction] = list(given) if isinstance(given, list | tuple) else [given]
        if not self.reactions or not all(isinstance(one, Reaction) for one in self.reactions):
            raise DtypeError(f"reactions must be one or more sggp.molecules.Reaction, got {reactions!r:.60}.")
        names = [one.name for one in self.reactions]
        if len(set(names)) < len(names):
            raise InputError(f"two reactions have one name: {', '.join(names)}; give each its own.")
        self.filters = _checked(filters)
        self.fingerprinter = fingerprinter or SmilesFingerprinter(parts=COMBINED)
        self.settings = self.fingerprinter.settings
        self.outcomes = whole_number(outcomes, "outcomes")
        counts = [len(one) * self.outcomes for one in self.reactions]
        if sum(counts) > _MOST:
            raise InputError(f"{sum(counts):.3g} combinations are more than 2^62: give shorter lists.")
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.progress = progress
        self._store = None if cache is None or self.filters.keep else ProductStore(cache, self._depends())
        self.made = 0
        self.missing: Counter[str] = Counter()
        self._position: dict[int, int] = {}
        self._by_name: dict[str, int] = {}
        self._numbers: list[int] = []
        self._blocks: list[PackedCounts] = []
        self._table: FingerprintTable | None = None

    def _depends(self) -> str:
        from sggp.molecules._rdkit import VERSION  # RDKit is an extra

        return json.dumps([VERSION, self.settings.plain(), self.filters.plain()])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def cached(self) -> bool:
        """Whether products are kept for the next time."""
        return self._store is not None

    @cached_property
    def unproductive(self) -> list[list[Refused]]:
        """For each reaction, the reagents that match and give no product in any of 16 combinations, with the reason.

        Cost: at first use 0.25 ms for each reagent of the longest list; the products are not kept.
        """
        return [unproductive(reaction, self.filters) for reaction in self.reactions]

    # numbers ------------------------------------------------------------------------------------------------------

    def recipes(self, numbers: Any) -> list[Recipe]:
        """What these combinations (k,) are.

        Raises:
            InputError: a number outside 0 … len − 1.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise InputError(
                f"combinations have numbers 0 … {len(self) - 1:,}; got {numbers.min()} … {numbers.max()}."
            )
        owner = np.searchsorted(self.offsets, numbers, side="right") - 1
        out: list[Recipe] = [Recipe(0, (), 0)] * len(numbers)
        for own in np.unique(owner).tolist():
            places = np.flatnonzero(owner == own)
            sizes = (*self.reactions[own].sizes, self.outcomes)
            for place, digits in zip(
                places.tolist(), mixed_radix(numbers[places] - self.offsets[own], sizes).tolist(), strict=True
            ):
                out[place] = Recipe(own, tuple(digits[:-1]), digits[-1])
        return out

    def number(self, reaction: int, rows: Any, which: int = 0) -> np.ndarray:
        """(k,) the numbers of combinations (k, components) of one reaction, by the rows of their reagents."""
        digits = np.asarray(rows, dtype=np.int64)
        out = np.zeros(len(digits), dtype=np.int64)
        for place, size in enumerate(self.reactions[reaction].sizes):
            out = out * size + digits[:, place]
        return self.offsets[reaction] + out * self.outcomes + which

    # products -----------------------------------------------------------------------------------------------------

    @property
    def products(self) -> FingerprintTable:
        """Every product looked at so far, once each.

        Raises:
            InputError: none was.
        """
        if self._table is None:
            if not self._numbers:
                raise InputError("no product was made yet.")
            self._blocks = [joined(self._blocks)]
            names = PackedStrings.pack(self._by_name)
            self._table = FingerprintTable(
                self._blocks[0], smiles=names, canonical=names, settings=self.settings.plain()
            )
        return self._table

    @property
    def numbers(self) -> np.ndarray:
        """(products,) the number of each of `products`: of several combinations that of the first made."""
        return np.asarray(self._numbers, dtype=np.int64)

    def make(self, numbers: Any) -> np.ndarray:
        """(k,) the position of each combination's product among `products`, `NO_PRODUCT` where there is none.

        What was finished stays, also when this is interrupted.
        """
        asked = np.asarray(numbers, dtype=np.int64).tolist()
        new = [number for number in dict.fromkeys(asked) if number not in self._position]
        if new:
            recipes = self.recipes(new)
            inputs = [(self.reactions[r.reaction].smarts, self.reagents(r), r.which) for r in recipes]
            keys = [product_key(*one) for one in inputs]
            kept = self._stored(keys)
            there = [i for i, key in enumerate(keys) if key in kept]
            self._take([new[i] for i in there], [kept[keys[i]] for i in there])
            todo = [i for i, key in enumerate(keys) if key not in kept]
            done = 0
            for places, found in produce(
                inputs, todo, self.settings, self.filters, self.fingerprinter.n_jobs
            ):
                self._take([new[i] for i in places], found)
                self._keep([keys[i] for i in places], found)
                done += len(places)
                self.made += len(places)
                if self.progress is not None:
                    self.progress(done, len(todo))
        return np.asarray([self._position[number] for number in asked], dtype=np.int64)

    def reagents(self, recipe: Recipe) -> tuple[str, ...]:
        """Canonical SMILES of the reagents of a combination."""
        return self.reactions[recipe.reaction].reagents(recipe.rows)

    def add(self, smiles: Sequence[str]) -> np.ndarray:
        """(k,) the numbers of molecules from elsewhere: len and more, or that of the product that they are.

        Raises:
            InputError: one cannot be parsed.
        """
        found = encode_all(smiles, self.settings, canonical=True, n_jobs=1)
        if found.invalid:
            _, text, reason = found.invalid[0]
            raise InputError(f"{text!r} is no molecule: {reason}.")
        packed = PackedCounts.pack(found.sizes, found.columns, found.counts, self.settings.width)
        names, out = found.canonical or [], []
        for place, name in enumerate(names):
            if name not in self._by_name:
                self._enter(len(self) + len(self._numbers), name, packed.take(np.asarray([place])))
            out.append(self._numbers[self._by_name[name]])
        return np.asarray(out, dtype=np.int64)

    def find(self, names: Sequence[str]) -> np.ndarray:
        """(k,) the numbers of products by canonical SMILES, -1 where no such product was made."""
        places = [self._by_name.get(name) for name in names]
        return np.asarray([-1 if place is None else self._numbers[place] for place in places], dtype=np.int64)

    def positions(self, numbers: Any) -> np.ndarray:
        """(k,) as `make`, also for molecules from elsewhere."""
        asked = np.asarray(numbers, dtype=np.int64)
        self.make(asked[asked < len(self)])
        return np.asarray(
            [self._position.get(number, NO_PRODUCT) for number in asked.tolist()], dtype=np.int64
        )

    def _take(self, numbers: Sequence[int], found: Sequence[Kept]) -> None:
        """Enter products, or note why there are none."""
        kind = np.uint16 if self.settings.width <= 2**16 else np.uint32
        fresh: list[Kept] = []
        for number, kept in zip(numbers, found, strict=True):
            if not kept.smiles:
                self._position[number] = NO_PRODUCT
                self.missing[kept.reason] += 1
            elif kept.smiles in self._by_name:
                place = self._position[number] = self._by_name[kept.smiles]
                if self._numbers[place] >= len(self):  # it was known by its SMILES; now its reagents are
                    self._numbers[place] = number
            else:
                self._position[number] = self._by_name[kept.smiles] = len(self._numbers)
                self._numbers.append(number)
                fresh.append(kept)
        if fresh:
            columns = [np.frombuffer(one.columns, dtype=kind) for one in fresh]
            counts = [np.frombuffer(one.counts, dtype=np.uint8) for one in fresh]
            sizes = np.asarray([len(own) for own in counts])
            self._blocks.append(
                PackedCounts.pack(sizes, np.concatenate(columns), np.concatenate(counts), self.settings.width)
            )
            self._table = None

    def _enter(self, number: int, name: str, fingerprint: PackedCounts) -> None:
        self._position[number] = self._by_name[name] = len(self._numbers)
        self._numbers.append(number)
        self._blocks.append(fingerprint)
        self._table = None

    # the cache ----------------------------------------------------------------------------------------------------

    def _stored(self, keys: list[bytes]) -> dict[bytes, Kept]:
        return self._with_store(lambda store: store.get(keys)) or {}

    def _keep(self, keys: list[bytes], found: Sequence[Kept]) -> None:
        self._with_store(lambda store: store.put(zip(keys, found, strict=True)))

    def _with_store(self, use: Callable[[ProductStore], Any]) -> Any:
        """What the cache gives, None without one; one that fails is no longer used, and said."""
        store = self._store
        if store is None:
            return None
        try:
            return use(store)
        except sqlite3.Error as error:
            _LOGGER.warning("%s: %s; products are no longer kept", store.path, error)
            self._store = None
            return None

    def describe(self) -> list[str]:
        """Lines of plain words: the reactions, and what was made of them so far."""
        lines = [line for one in self.reactions for line in one.describe()]
        lines.append(f"{len(self._numbers):,} products looked at, {self.made:,} of them made anew")
        lines += [f"  {count:,} without a product: {reason}" for reason, count in self.missing.most_common(5)]
        return lines


def _checked(filters: Any) -> ProductFilter:
    from sggp.molecules.reactions._reactor import check_pattern  # RDKit is an extra

    found = ProductFilter() if filters is None else filters
    if not isinstance(found, ProductFilter):
        raise DtypeError(f"filters must be ProductFilter, got {type(found).__name__}.")
    for smarts in found.exclude:
        check_pattern(smarts)
    return found


def joined(blocks: Sequence[PackedCounts]) -> PackedCounts:
    """Blocks of rows, one after the other."""
    if len(blocks) == 1:
        return blocks[0]
    sizes = np.concatenate([np.diff(own.pointers) for own in blocks])
    columns, counts = (
        np.concatenate([getattr(own, name) for own in blocks]) for name in ("columns", "counts")
    )
    return PackedCounts.pack(sizes, columns, counts, blocks[0].width)
