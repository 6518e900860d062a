"""What each reagent brings to a product's fingerprint: a first look at neighbours that are too many to be made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sggp.molecules.reactions.library import NO_PRODUCT, ReactionLibrary, Recipe

_GOOD = 0.5
_PROBED = 64


class Contributions:
    """Ranks the neighbours of products by fingerprints that are put together of reagents' contributions.

    A reference product has all its neighbours made. The fingerprint of another product whose reagent a is exchanged
    for b is then about its own, plus that of the reference with b, less that of the reference with a: exact but for
    what reaches from one reagent to another. How good that is shows in the products that are made afterwards; where the
    squared correlation of their posterior means falls below one half, the product at hand becomes the reference.

    Args:
        library: the products.
    """

    def __init__(self, library: ReactionLibrary) -> None:
        self.library = library
        self._references: dict[int, list[np.ndarray]] = {}  # by reaction: positions by component and reagent
        self.accuracy: float | None = None

    def best(
        self, base: Recipe, rows: np.ndarray, promise: Callable[[Tensor], np.ndarray], count: int
    ) -> np.ndarray:
        """The most promising of a product's neighbours.

        Args:
            base: the product.
            rows: (m, components) its neighbours, as rows of reagents.
            promise: how promising fingerprints (k, width) are, (k,), larger is better.
            count: how many to give back.

        Returns:
            (count, components); all of them, made, where this product becomes the reference.
        """
        reference = self._references.get(base.reaction)
        if reference is not None:
            hope = self._hope(base, rows, reference, promise)
            order = np.argsort(-hope, kind="stable")
            self.accuracy = self._agreement(base, rows, hope, order, promise)
            if self.accuracy >= _GOOD:
                return rows[order[:count]]
        self._make_reference(base, rows)
        return rows

    def _make_reference(self, base: Recipe, rows: np.ndarray) -> None:
        positions = self.library.make(self.library.number(base.reaction, rows, base.which))
        sizes = self.library.reactions[base.reaction].sizes
        self._references[base.reaction] = np.split(positions, np.cumsum(sizes)[:-1])

    def _hope(
        self,
        base: Recipe,
        rows: np.ndarray,
        reference: list[np.ndarray],
        promise: Callable[[Tensor], np.ndarray],
    ) -> np.ndarray:
        """(m,) the promise of each neighbour's approximate fingerprint; -inf where the reference has none."""
        table, library = self.library.products, self.library
        own = table[int(library.make(library.number(base.reaction, [base.rows], base.which))[0])].to(
            torch.int16
        )
        hope = np.full(len(rows), -np.inf)
        start = 0
        for place, with_each in enumerate(reference):
            there = np.flatnonzero(with_each != NO_PRODUCT)
            now = with_each[base.rows[place]]
            if now != NO_PRODUCT:
                rest = own - table[int(now)].to(torch.int16)
                for some in np.array_split(there, -(-len(there) // 4096) or 1):
                    exchanged = table[with_each[some]].to(torch.int16) + rest
                    hope[start + some] = promise(exchanged.clamp_(0, 255).to(torch.uint8))
            start += len(with_each)
        return hope

    def _agreement(
        self,
        base: Recipe,
        rows: np.ndarray,
        hope: np.ndarray,
        order: np.ndarray,
        promise: Callable[[Tensor], np.ndarray],
    ) -> float:
        """Squared correlation of the promise with that of real products, at neighbours spread over the ranking."""
        finite = order[np.isfinite(hope[order])]
        if len(finite) < 3:
            return 0.0
        count = min(_PROBED, max(3, len(finite) // 8))
        probe = finite[np.linspace(0, len(finite) - 1, count).astype(int)]
        positions = self.library.make(self.library.number(base.reaction, rows[probe], base.which))
        made = positions != NO_PRODUCT
        if made.sum() < 3:
            return 0.0
        true = promise(self.library.products[positions[made]])
        said = hope[probe][made]
        if true.std() == 0 or said.std() == 0:
            return 0.0
        return float(np.corrcoef(true, said)[0, 1] ** 2)
