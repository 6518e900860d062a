"""Which products of a reaction are let through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sggp.checks import finite_number
from sggp.errors import DtypeError, InputError

Range = tuple[float | None, float | None]
FILTERS = ("molecular_weight", "logp", "exclude")
"""What a file of reactions may filter by."""


@dataclass(frozen=True)
class ProductFilter:
    """Products that a user wants.

    Args:
        molecular_weight: least and largest, g/mol; None is no limit.
        logp: least and largest Crippen log P.
        exclude: SMARTS that no product may hold.
        keep: called with the canonical SMILES of a product that passed the others; what is false for it is left out.
            For several processes it has to be picklable, such as a function at the top of a module.

    Raises:
        InputError, DtypeError: a range that is empty or no pair of numbers, a text in place of a list of SMARTS.
    """

    molecular_weight: Range = (None, None)
    logp: Range = (None, None)
    exclude: tuple[str, ...] = ()
    keep: Callable[[str], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("molecular_weight", "logp"):
            object.__setattr__(self, name, _range(getattr(self, name), name))
        given: object = self.exclude
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise DtypeError(f"exclude must be a list of SMARTS, got {given!r:.60}.")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if self.keep is not None and not callable(self.keep):
            raise DtypeError(f"keep must be a function of a SMILES, got {type(self.keep).__name__}.")

    @classmethod
    def from_json(cls, given: Any) -> ProductFilter:
        """The filters in a reaction file: molecular_weight and logp as [low, high], exclude as a list of SMARTS."""
        if not isinstance(given, Mapping):
            raise DtypeError(f"filters must be an object with {', '.join(FILTERS)}; got {given!r:.60}.")
        strange = [str(name) for name in given if name not in FILTERS]
        if strange:
            raise InputError(f"unknown filters {', '.join(strange)}; there are {', '.join(FILTERS)}.")
        return cls(**given)

    @property
    def passes_all(self) -> bool:
        """Whether there is nothing to look at."""
        return self == ProductFilter()

    def plain(self) -> dict[str, Any]:
        """As JSON; a function as its name."""
        own = {"molecular_weight": list(self.molecular_weight), "logp": list(self.logp)}
        rest = {"exclude": list(self.exclude)}
        called = getattr(self.keep, "__qualname__", repr(self.keep))
        return {**own, **rest, **({} if self.keep is None else {"keep": called})}


def _range(given: Any, name: str) -> Range:
    expected = f"{name} must be a pair (low, high), None where there is no limit"
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise DtypeError(f"{expected}; got {given!r:.60}.")
    low, high = (None if end is None else finite_number(end, name) for end in given)
    if low is not None and high is not None and low > high:
        raise InputError(f"{expected}; got {low} … {high}, which holds nothing.")
    return low, high
