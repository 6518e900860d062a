"""The one module of this room that imports RDKit: parsing, fingerprints, properties, drawings."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sggp.errors import MissingExtra

try:
    import rdkit
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator, rdMolDescriptors
    from rdkit.Chem.Draw import rdMolDraw2D
except ImportError as error:
    raise MissingExtra(
        'Reading SMILES needs RDKit, which is not installed. Install it with: pip install "sggp[molecules]"'
    ) from error

VERSION: str = rdkit.__version__
LONGEST = 10_000
"""Longest SMILES that is parsed: canonical order takes seconds at this length, and its square beyond."""
MAX_COUNT = 255

_crippen: Any = Crippen  # RDKit's stubs do not list what these two modules make at import
_descriptors: Any = Descriptors

PROPERTIES = {
    "canonical SMILES": Chem.MolToSmiles,
    "qed": QED.qed,
    "logp": _crippen.MolLogP,
    "molecular_weight": _descriptors.MolWt,
    "tpsa": rdMolDescriptors.CalcTPSA,
}


@dataclass(frozen=True)
class Encoded:
    """Sparse counts of a run of SMILES; an invalid SMILES has no entries and an empty canonical form.

    Attributes:
        sizes: (n,) int64, how many entries each molecule has.
        columns: (e,) uint32, fingerprint positions, ascending within a molecule.
        counts: (e,) uint8, saturated at 255.
        canonical: n canonical SMILES, or None where they were not asked for.
        invalid: (position, text, reason) of each SMILES that cannot be used.
        saturated: positions of molecules with a count above 255.
    """

    sizes: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    canonical: list[str] | None
    invalid: list[tuple[int, str, str]]
    saturated: list[int]


def parse(smiles: object) -> tuple[Any, str]:
    """The molecule and "", or None and the reason why there is none. Call it inside `rdBase.BlockLogs`."""
    if not isinstance(smiles, str):
        return None, f"not text but {type(smiles).__name__}"
    text = smiles.strip()
    if not text:
        return None, "empty"
    if len(text) > LONGEST:
        return None, f"more than {LONGEST:,} characters"
    molecule: Any = Chem.MolFromSmiles(text)
    if molecule is None:
        return None, _reason(text)
    if molecule.GetNumAtoms() == 0:
        return None, "has no atoms"
    return molecule, ""


def _reason(text: str) -> str:
    molecule: Any = Chem.MolFromSmiles(text, sanitize=False)
    if molecule is None:
        return "not SMILES syntax"
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(molecule)]
    return "; ".join(problems) if problems else "RDKit cannot sanitize it"


def encode(smiles: Sequence[object], radius: int, fp_size: int, counts: bool, *, canonical: bool) -> Encoded:
    """Folded Morgan counts (or bits) of each SMILES, by RDKit's generator.

    RDKit's log is blocked during this call only. Picklable arguments and result, so it also runs in other processes.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=fp_size)
    with rdBase.BlockLogs():
        parsed = [parse(text) for text in smiles]
        molecules = [molecule for molecule, _ in parsed if molecule is not None]
        fingerprints = generator.GetCountFingerprints(molecules) if molecules else ()
        names = [Chem.MolToSmiles(m) if m is not None else "" for m, _ in parsed] if canonical else None
    entries = iter([fingerprint.GetNonzeroElements() for fingerprint in fingerprints])
    rows = [next(entries) if molecule is not None else {} for molecule, _ in parsed]
    sizes = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    total = int(sizes.sum())
    columns = np.fromiter((key for row in rows for key in row), dtype=np.uint32, count=total)
    values = np.fromiter((value for row in rows for value in row.values()), dtype=np.int64, count=total)
    saturated: list[int] = []
    if not counts:
        values = np.minimum(values, 1)
    elif total and values.max() > MAX_COUNT:
        owner = np.repeat(np.arange(len(rows)), sizes)
        saturated = [int(i) for i in np.unique(owner[values > MAX_COUNT])]
        values = np.minimum(values, MAX_COUNT)
    invalid = [
        (i, text if isinstance(text, str) else repr(text), reason)
        for i, (text, (molecule, reason)) in enumerate(zip(smiles, parsed, strict=True))
        if molecule is None
    ]
    return Encoded(sizes, columns, values.astype(np.uint8), names, invalid, saturated)


def properties(smiles: Sequence[object], name: str) -> list[tuple[Any, str]]:
    """(value, "") or (None, reason) of one of `PROPERTIES` for each SMILES."""
    with rdBase.BlockLogs():
        parsed = [parse(text) for text in smiles]
        return [(None if m is None else PROPERTIES[name](m), reason) for m, reason in parsed]


MAX_DRAWN = 200
"""Largest molecule that is drawn, in heavy atoms: layout takes time with the cube of the size, and shows nothing."""


def drawing(smiles: Sequence[object], legends: Sequence[str], columns: int, size: tuple[int, int]) -> Any:
    """An SVG document of a grid of molecules, or the list of (position, reason) that cannot be drawn.

    Above `MAX_DRAWN` atoms there is a line of text in the place of the drawing.
    """
    with rdBase.BlockLogs():
        parsed = [parse(text) for text in smiles]
        bad = [(i, reason) for i, (molecule, reason) in enumerate(parsed) if molecule is None]
        if bad:
            return bad
        rows = -(-len(parsed) // columns)
        drawer = rdMolDraw2D.MolDraw2DSVG(columns * size[0], rows * size[1], size[0], size[1])
        options: Any = drawer.drawOptions()
        options.clearBackground = False
        sizes = [molecule.GetNumHeavyAtoms() for molecule, _ in parsed]
        small = [m if atoms <= MAX_DRAWN else Chem.Mol() for (m, _), atoms in zip(parsed, sizes, strict=True)]
        drawer.DrawMolecules(small, legends=list(legends))
        drawer.FinishDrawing()
        text = str(drawer.GetDrawingText())
        for position, atoms in enumerate(sizes):
            if atoms > MAX_DRAWN:
                x, y = (position % columns + 0.5) * size[0], (position // columns + 0.5) * size[1]
                words = html.escape(f"{legends[position]} ({atoms} atoms, not drawn)".lstrip())
                place = f'x="{x:g}" y="{y:g}" text-anchor="middle" font-size="12" font-family="sans-serif"'
                text = text.replace("</svg>", f"<text {place}>{words}</text>\n</svg>")
        return text
