"""How hard a combinatorial space is searched, and what a search did."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sggp.checks import whole_number


@dataclass(frozen=True)
class Effort:
    """How hard to look for the best products.

    Args:
        products: products that one search may look at anew, about; it stops after the round in which they are exceeded.
        rounds: at most so many rounds of expanding the best, each from what the last one found.
        bases: products expanded in a round: each of their reagents is exchanged for every other one.
        cut: with more neighbours than this a product's neighbours are ranked by contributions of the reagents, and only
            so many of the best are made.
        random: random combinations in every search.

    Raises:
        InputError: one is no positive integer.
    """

    products: int = 5000
    rounds: int = 4
    bases: int = 3
    cut: int = 2500
    random: int = 100

    def __post_init__(self) -> None:
        for name in ("products", "rounds", "bases", "cut", "random"):
            whole_number(getattr(self, name), f"Effort.{name}")

    def doubled(self) -> Effort:
        """Twice as hard."""
        return replace(self, products=2 * self.products, rounds=2 * self.rounds, random=2 * self.random)


@dataclass(frozen=True)
class SearchReport:
    """What one search did.

    Attributes:
        looked_at: products that were known to the space when it ended, those of searches before included.
        fresh: products that it looked at anew.
        bases: products whose neighbours were made.
        converged: whether it ended since no product of the choice had a neighbour that was not looked at, and not
            since its effort was spent.
        cut_accuracy: squared correlation between posterior means at products and at what the contributions of their
            reagents had said they are; None where nothing was cut.
    """

    looked_at: int
    fresh: int
    bases: int
    converged: bool
    cut_accuracy: float | None = None

    def __str__(self) -> str:
        end = "no neighbour of the choice is left" if self.converged else "the effort was spent"
        cut = "" if self.cut_accuracy is None else f"; contributions of reagents: R² {self.cut_accuracy:.2f}"
        return f"{self.looked_at:,} products looked at, {self.fresh:,} of them now, {self.bases} expanded; {end}{cut}"
