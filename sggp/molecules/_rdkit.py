"""The one module of this room that imports RDKit: parsing, fingerprints, properties, drawings."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sggp.errors import missing_extra
from sggp.molecules.encoding.descriptors import quantise
from sggp.molecules.encoding.parts import (
    LONGEST_PATH,
    MOST_ATOMS_IN_PAIRS,
    FingerprintSettings,
    morgan_radius,
)
from sggp.molecules.files.columns import is_smiles

try:
    import rdkit
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator, rdMolDescriptors
except ImportError as error:
    raise missing_extra("Reading SMILES needs RDKit", "molecules", error) from error

VERSION: str = rdkit.__version__
LONGEST = 10_000
"""Longest SMILES that is parsed: canonical order takes seconds at this length, and its square beyond."""
MAX_COUNT = 255

_crippen: Any = Crippen  # RDKit's stubs do not list what these two modules make at import
_descriptors: Any = Descriptors

# desirability 1 up to the first number and 0 from the second on (TPSA: 0, 1 between the middle two, 0)
_CNS_TERMS = (
    (_crippen.MolLogP, (3.0, 5.0)),
    (_descriptors.MolWt, (360.0, 500.0)),
    (rdMolDescriptors.CalcTPSA, (20.0, 40.0, 90.0, 120.0)),
    (rdMolDescriptors.CalcNumHBD, (0.5, 3.5)),
)


def cns_mpo(molecule: Any) -> float:
    """Mean of the four desirabilities of Wager et al. (2010) that need no pKa, 0 to 1."""
    return sum(_desirability(of(molecule), ends) for of, ends in _CNS_TERMS) / len(_CNS_TERMS)


def _desirability(value: float, ends: tuple[float, ...]) -> float:
    falls = (ends[-1] - value) / (ends[-1] - ends[-2])
    rises = (value - ends[0]) / (ends[1] - ends[0]) if len(ends) == 4 else 1.0
    return min(max(min(falls, rises), 0.0), 1.0)


PROPERTIES = {
    "canonical SMILES": Chem.MolToSmiles,
    "qed": QED.qed,
    "cns_mpo": cns_mpo,
    "cns": lambda molecule: (cns_mpo(molecule) * QED.qed(molecule)) ** 0.5,
    "logp": _crippen.MolLogP,
    "molecular_weight": _descriptors.MolWt,
    "tpsa": rdMolDescriptors.CalcTPSA,
}

_DESCRIPTORS = (  # in the order of `DESCRIPTORS`
    _descriptors.MolWt,
    rdMolDescriptors.CalcTPSA,
    lambda molecule: rdMolDescriptors.CalcCrippenDescriptors(molecule)[0],
    rdMolDescriptors.CalcNumHBD,
    rdMolDescriptors.CalcNumHBA,
    rdMolDescriptors.CalcNumRotatableBonds,
    rdMolDescriptors.CalcNumRings,
    rdMolDescriptors.CalcNumAromaticRings,
    rdMolDescriptors.CalcFractionCSP3,
    lambda molecule: molecule.GetNumHeavyAtoms(),
    rdMolDescriptors.CalcLabuteASA,
    rdMolDescriptors.CalcKappa2,
)


@dataclass(frozen=True)
class Encoded:
    """Sparse counts of a run of SMILES; an invalid SMILES has no entries and an empty canonical form.

    Attributes:
        sizes: (n,) int64, how many entries each molecule has.
        columns: (e,) fingerprint positions, ascending within a molecule: uint16, or uint32 above 65,536.
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
    if gap := _gap(text):
        return None, gap
    molecule: Any = Chem.MolFromSmiles(text)
    if molecule is None:
        return None, _reason(text)
    if molecule.GetNumAtoms() == 0:
        return None, "has no atoms"
    return (_without_maps(molecule) if ":" in text else molecule), ""


def _gap(text: str) -> str:
    """Why a text with a blank in it cannot be read: RDKit takes what follows for a name, also if it is the rest."""
    start, *rest = text.split(maxsplit=1)
    more = rest[0].split()[0] if rest else ""
    if not more or more.startswith("|") or not is_smiles(more):
        return ""
    return f"a blank between {start[-20:]!r} and {more[:20]!r}: leave it out, or give one molecule alone"


def _without_maps(molecule: Any) -> Any:
    """The molecule without numbers of atoms, as reactions have them; those of R groups (`[*:1]`) stay."""
    numbered = [atom for atom in molecule.GetAtoms() if atom.GetAtomMapNum() and atom.GetAtomicNum()]
    for atom in numbered:
        atom.SetAtomMapNum(0)
    if numbered:
        Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)
    return molecule


def _reason(text: str) -> str:
    molecule: Any = Chem.MolFromSmiles(text, sanitize=False)
    if molecule is None:
        return f"not SMILES syntax{_hint(text)}"
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(molecule)]
    return "; ".join(problems) if problems else "RDKit cannot sanitize it"


def _hint(text: str) -> str:
    """What a text that is no SMILES may be instead."""
    strange = next((character for character in text if not character.isascii()), None)
    if strange is not None:
        return f": {strange!r} (U+{ord(strange):04X}) is in none"
    if text.startswith("InChI="):
        return " but an InChI"
    if re.fullmatch("[A-Z]{14}-[A-Z]{10}-[A-Z]", text):
        return " but an InChIKey"
    if ">" in text and "->" not in text:
        return " of one molecule but a reaction"
    return ": quotes are around it" if text[0] == text[-1] and text[0] in "\"'" else ""


def encode(smiles: Sequence[object], settings: FingerprintSettings, *, canonical: bool) -> Encoded:
    """Folded counts (or bits) of each SMILES by RDKit's generators, and descriptors, part beside part.

    RDKit's log is blocked during this call only. Picklable arguments and result, so it also runs in other processes.
    """
    with rdBase.BlockLogs():
        parsed = [parse(text) for text in smiles]
        molecules = [molecule for molecule, _ in parsed if molecule is not None]
        parts = [_part(name, molecules, settings) for name in settings.ranges] if molecules else []
        names = [Chem.MolToSmiles(m) if m is not None else "" for m, _ in parsed] if canonical else None
    place = np.flatnonzero([molecule is not None for molecule, _ in parsed])
    sizes = np.zeros(len(parsed), dtype=np.int64)
    kind = np.uint16 if settings.width <= 2**16 else np.uint32
    owners, columns, values, saturated = [], [], [], set[int]()
    for (start, _), (own, keys, counts) in zip(settings.ranges.values(), parts, strict=False):
        sizes[place] += own
        owner = np.repeat(place.astype(kind), own)
        saturated |= set(owner[counts > MAX_COUNT].tolist())
        owners.append(owner)
        columns.append((keys + start).astype(kind))
        values.append(np.minimum(counts, MAX_COUNT).astype(np.uint8))
    order = np.argsort(_joined(owners, kind), kind="stable")  # each molecule's parts one after the other
    invalid = [
        (i, text if isinstance(text, str) else repr(text), reason)
        for i, (text, (molecule, reason)) in enumerate(zip(smiles, parsed, strict=True))
        if molecule is None
    ]
    entries = _joined(columns, kind)[order], _joined(values, np.uint8)[order]
    return Encoded(sizes, *entries, names, invalid, sorted(saturated))


def _part(
    name: str, molecules: list[Any], settings: FingerprintSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One part of every molecule: how many entries each has, and their positions (ascending) and values, (e,) int64."""
    if name == "descriptors":
        stored = quantise(
            np.asarray([[f(molecule) for f in _DESCRIPTORS] for molecule in molecules], dtype=float)
        )
        rows, columns = np.nonzero(stored)
        return np.bincount(rows, minlength=len(stored)), columns, stored[rows, columns].astype(np.int64)
    generator = _generator(name, settings.fp_size)
    if name == "atom_pairs":
        found = [
            generator.GetCountFingerprint(m) if m.GetNumAtoms() <= MOST_ATOMS_IN_PAIRS else None
            for m in molecules
        ]
    else:
        found = generator.GetCountFingerprints(molecules)
    entries = [{} if fingerprint is None else fingerprint.GetNonzeroElements() for fingerprint in found]
    sizes = np.fromiter((len(own) for own in entries), dtype=np.int64, count=len(entries))
    total = int(sizes.sum())
    keys = np.fromiter((key for own in entries for key in own), dtype=np.int64, count=total)
    counts = np.fromiter((count for own in entries for count in own.values()), dtype=np.int64, count=total)
    return sizes, keys, counts if settings.counts else np.minimum(counts, 1)


def _generator(name: str, size: int) -> Any:
    radius = morgan_radius(name)
    if radius is not None:
        return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
    if name == "atom_pairs":
        return rdFingerprintGenerator.GetAtomPairGenerator(fpSize=size)
    if name == "torsions":
        return rdFingerprintGenerator.GetTopologicalTorsionGenerator(fpSize=size)
    return rdFingerprintGenerator.GetRDKitFPGenerator(
        maxPath=LONGEST_PATH, fpSize=size, countSimulation=False, numBitsPerFeature=1
    )


def _joined(arrays: list[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=kind)


def properties(smiles: Sequence[object], name: str) -> list[tuple[Any, str]]:
    """(value, "") or (None, reason) of one of `PROPERTIES` for each SMILES."""
    with rdBase.BlockLogs():
        parsed = map(parse, smiles)  # one molecule in memory at a time
        return [(None if m is None else PROPERTIES[name](m), reason) for m, reason in parsed]


MAX_DRAWN = 200
"""Largest molecule that is drawn, in heavy atoms: layout takes time with the cube of the size, and shows nothing."""


def drawing(smiles: Sequence[object], legends: Sequence[str], columns: int, size: tuple[int, int]) -> Any:
    """An SVG document of a grid of molecules, or the list of (position, reason) that cannot be drawn.

    Above `MAX_DRAWN` atoms there is a line of text in the place of the drawing. Drawing is all of RDKit that needs
    libraries of X11 (libXrender), which servers and containers often lack.
    """
    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        raise missing_extra("Drawing molecules needs RDKit's drawings", "molecules", error) from error
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
