"""What a fingerprint is: one kind of substructures, or several kinds side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sggp.checks import flag, whole_number
from sggp.errors import DtypeError, InputError
from sggp.molecules.encoding.descriptors import DESCRIPTORS

COMBINED = ("morgan2", "atom_pairs", "torsions", "paths", "descriptors")
"""The parts of a `FingerprintTable` unless other ones are asked for."""
MOST_ATOMS_IN_PAIRS = 500
"""Larger molecules have no atom pairs: the distances between n atoms take n³ steps, two seconds for 1,200 atoms."""
LONGEST_PATH = 5
"""Bonds in the largest substructure of "paths"."""
_MORGAN = re.compile(r"morgan([0-9])")
_OTHERS = ("atom_pairs", "torsions", "paths", "descriptors")
_KNOWN = "'morgan0' … 'morgan9', 'atom_pairs', 'torsions', 'paths' and 'descriptors'"


def part_names(parts: Any) -> tuple[str, ...] | None:
    """A sequence of names of parts (or a mapping from them) as a tuple; None stays None.

    Raises:
        DtypeError: no sequence of texts. InputError: none, one that does not exist, or one twice.
    """
    if parts is None:
        return None
    if isinstance(parts, str | bytes) or not hasattr(parts, "__iter__"):
        raise DtypeError(f"parts must be a sequence of names among {_KNOWN}, got {parts!r}.")
    names = tuple(parts)
    for name in names:
        if not isinstance(name, str) or not (name in _OTHERS or _MORGAN.fullmatch(name)):
            raise InputError(f"unknown part {name!r} of a fingerprint; the parts are {_KNOWN}.")
    if not names or len(set(names)) < len(names):
        raise InputError(f"parts must name at least one part, and none twice; got {names!r}.")
    return names


def morgan_radius(name: str) -> int | None:
    """The radius of a Morgan part, None for the others."""
    found = _MORGAN.fullmatch(name)
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class FingerprintSettings:
    """What a fingerprint is: Morgan `radius`, folded to `fp_size` positions, counts or bits; or `parts` side by side.

    Every part but "descriptors" has `fp_size` positions.
    """

    radius: int = 2
    fp_size: int = 2048
    counts: bool = True
    parts: tuple[str, ...] | None = None

    @classmethod
    def of(cls, radius: int, fp_size: int, counts: bool, parts: Sequence[str] | None) -> FingerprintSettings:
        """Checked settings, as plain numbers.

        Raises:
            DtypeError, InputError: a setting that cannot be used.
        """
        whole_number(radius, "radius", least=0)
        if whole_number(fp_size, "fp_size") > 2**31 - 1:
            raise InputError(f"fp_size must be at most 2^31 - 1, got {fp_size!r}.")
        flag(counts, "counts")
        return cls(int(radius), int(fp_size), bool(counts), part_names(parts))

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """From the name of each part, in order, to its first column and the one after its last."""
        out, start = {}, 0
        for name in self.parts or (f"morgan{self.radius}",):
            stop = start + (len(DESCRIPTORS) if name == "descriptors" else self.fp_size)
            out[name] = (start, stop)
            start = stop
        return out

    @property
    def width(self) -> int:
        """Number of columns."""
        return max(stop for _, stop in self.ranges.values())

    @property
    def column_names(self) -> list[str]:
        """Such as morgan2_0, atom_pairs_17, logp."""
        out: list[str] = []
        for name, (start, stop) in self.ranges.items():
            if name == "descriptors":
                out += [descriptor.name for descriptor in DESCRIPTORS]
            else:
                out += [f"{name}_{i}" for i in range(stop - start)]
        return out

    def plain(self) -> dict[str, Any]:
        """The settings as plain Python values, by name; with `parts` as their ranges, and without `radius` then."""
        own: dict[str, Any] = {"radius": self.radius, "fp_size": self.fp_size, "counts": self.counts}
        if self.parts is not None:
            del own["radius"]
            own["parts"] = {name: list(columns) for name, columns in self.ranges.items()}
        return own
