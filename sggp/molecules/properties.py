"""Properties that RDKit computes, and drawings for a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sggp.checks import one_of, whole_number
from sggp.errors import InputError, MoleculeError
from sggp.molecules.fingerprinter import as_smiles_list
from sggp.molecules.report import InvalidMolecule, InvalidReport

PROPERTY_NAMES = ("cns", "cns_mpo", "qed", "logp", "molecular_weight", "tpsa")


def compute_property(smiles: Any, name: str) -> np.ndarray:
    """One property of n molecules, (n,) float64.

    Args:
        smiles: n SMILES.
        name: "qed" (drug-likeness, 0 to 1), "logp" (Crippen's octanol-water log P), "molecular_weight" (g/mol),
            "tpsa" (topological polar surface area, Å²), "cns_mpo" (what a drug of the central nervous system should be:
            mean desirability, 0 to 1, of log P, weight, TPSA and hydrogen bond donors, those of the six terms of CNS
            MPO that need no pKa) or "cns" (geometric mean of "cns_mpo" and "qed").

    Raises:
        MoleculeError: some SMILES cannot be parsed; `error.report` lists them. InputError: unknown property.

    Cost: about 0.3 s (logp) to 1 s (qed) per 1,000 molecules.
    Source: QED: Bickerton et al., Nature Chemistry 4 (2012) 90; log P: Wildman & Crippen, J. Chem. Inf. Comput. Sci.
        39 (1999) 868; both as implemented in RDKit. CNS MPO: Wager et al., ACS Chem. Neurosci. 1 (2010) 435.
    """
    one_of(name, "a property", PROPERTY_NAMES)
    return np.asarray(property_of_each(smiles, name), dtype=np.float64)


def property_of_each(smiles: Any, name: str) -> list[Any]:
    """One of RDKit's properties, or the canonical SMILES, of each molecule. Raises as `compute_property`."""
    from sggp.molecules._rdkit import properties  # RDKit is an extra

    entries = as_smiles_list(smiles)
    found = properties(entries, name)
    _refuse(entries, [(i, why) for i, (_, why) in enumerate(found) if why])
    return [value for value, _ in found]


def qed(smiles: str) -> float:
    """Quantitative estimate of drug-likeness of one molecule, 0 (poor) to 1. Raises as `compute_property`."""
    return float(compute_property([smiles], "qed")[0])


def logp(smiles: str) -> float:
    """Crippen's octanol-water log P of one molecule. Raises as `compute_property`."""
    return float(compute_property([smiles], "logp")[0])


def molecule_svg(smiles: str, legend: str = "", *, size: tuple[int, int] = (220, 180)) -> str:
    """A drawing of one molecule as an inline `<svg>` element of `size` pixels. Raises as `draw_grid`."""
    return draw_grid([smiles], [legend], columns=1, size=size)


def draw_grid(
    smiles: Sequence[str],
    legends: Sequence[str] | None = None,
    *,
    columns: int = 5,
    size: tuple[int, int] = (220, 180),
) -> str:
    """Drawings of n molecules in rows of `columns`, as one inline `<svg>` element that needs no other file.

    A molecule of more than 200 heavy atoms is not drawn: its place says how large it is.

    Args:
        smiles: n SMILES.
        legends: n lines of text below the drawings, or None.
        columns: molecules per row.
        size: width and height of each drawing in pixels.

    Raises:
        MoleculeError: some SMILES cannot be parsed. InputError: `columns` or `size` below 1, legends that do not fit.
    """
    from sggp.molecules._rdkit import drawing

    entries = as_smiles_list(smiles)
    if legends is not None and (isinstance(legends, str) or not hasattr(legends, "__len__")):
        raise InputError(f"legends must be a list of texts, got {type(legends).__name__}.")
    texts = [""] * len(entries) if legends is None else [str(text) for text in legends]
    if len(texts) != len(entries):
        raise InputError(f"got {len(texts)} legends for {len(entries)} molecules.")
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise InputError(f"size must be (width, height) in pixels, got {size!r}.")
    width, height = (whole_number(side, "size") for side in size)
    drawn = drawing(entries, texts, min(whole_number(columns, "columns"), len(entries)), (width, height))
    if not isinstance(drawn, str):
        _refuse(entries, drawn)
    return str(drawn)[str(drawn).index("<svg") :]


def _refuse(entries: Sequence[Any], bad: Sequence[tuple[int, str]]) -> None:
    if bad:
        invalid = tuple(InvalidMolecule(i, None, str(entries[i]), why) for i, why in bad)
        report = InvalidReport(total=len(entries), invalid=invalid, duplicates_checked=False)
        raise MoleculeError(report.describe(), report)
