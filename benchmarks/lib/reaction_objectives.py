"""The reaction, its reagents and what is looked for, for `combinatorial.py`: objectives, and the truth about them."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import Crippen, rdFingerprintGenerator, rdMolDescriptors
from sklearn.ensemble import RandomForestRegressor

from sggp.datasets.files import data_file
from sggp.datasets.molecules import dockstring_small
from sggp.molecules import Reaction
from sggp.molecules.reactions._reactor import outcomes

__all__ = ["OBJECTIVES", "SIZES", "Truth", "library", "published", "truth", "values"]

SMARTS = "N[c:4][c:3]C(O)=O.[#6:1][NH2].[#6:2]C(=O)[OH]>>[C:2]c1n[c:4][c:3]c(=O)n1[C:1]"
QUERY = "CCc1cccc2c(=O)n(C3CNC3)c([C@@H](C)N)nc12"
FILES = {
    "0.94M": ("aminobenzoic_ok.smi", "primary_amines_500.smi", "carboxylic_acids_500.smi"),
    "94M": ("aminobenzoic_ok.smi", "primary_amines_500.smi", "carboxylic_acids_500.smi"),
    "22G": ("aminobenzoic_ok.smi", "primary_amines_ok.smi.gz", "carboxylic_acids_ok.smi.gz"),
}
SIZES = {"tiny": (4, 6, 8), "0.94M": (47, 100, 200), "94M": (376, 500, 500), "22G": (376, 13_842, 4_214)}
TOP = 100
BITS = 1024
_BLOCK = 5000
_morgan3 = rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=2048)
_morgan2 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
_pairs = rdFingerprintGenerator.GetAtomPairGenerator(fpSize=2048)
_crippen: Any = Crippen


def library(size: str) -> Reaction:
    """The quinazolinones of a size in `SIZES`; parts of the lists are spread evenly over them."""
    paths = [data_file(f"reactions/{name}") for name in FILES.get(size, FILES["0.94M"])]
    whole = Reaction(SMARTS, paths, "quinazolinone")
    if size in ("94M", "22G"):
        return whole
    lists = []
    for own, count in zip(whole.components, SIZES[size], strict=True):
        rows = np.linspace(0, len(own) - 1, count).round().astype(int)
        lists.append([(own.smiles[row], own.ids[row]) for row in rows])
    return Reaction(SMARTS, lists, "quinazolinone")


def published() -> set[str]:
    """Canonical SMILES of the authors' best hundred of 94 million by exhaustive search."""
    with data_file("reactions/quinazoline_top100_of_94M.csv").open(encoding="utf-8") as file:
        return {Chem.MolToSmiles(Chem.MolFromSmiles(row["SMILES"])) for row in csv.DictReader(file)}


def _similarity(generator: Any, molecules: Sequence[Any]) -> np.ndarray:
    query = generator.GetFingerprint(Chem.MolFromSmiles(QUERY))
    return np.asarray(DataStructs.BulkTanimotoSimilarity(query, list(generator.GetFingerprints(molecules))))


def _bits(molecules: Sequence[Any]) -> np.ndarray:  # (n, BITS) uint8
    return np.asarray([_morgan2.GetFingerprintAsNumPy(molecule) for molecule in molecules])


@functools.cache
def _forest() -> RandomForestRegressor:
    """A rugged truth: a forest of 60 trees that was trained on the docking scores of F2."""
    data = dockstring_small()
    keep = np.flatnonzero(np.isfinite(data.values["F2"]))[:4000]
    bits = _bits([Chem.MolFromSmiles(data.smiles[row]) for row in keep])
    model = RandomForestRegressor(60, min_samples_leaf=2, max_features=0.3, random_state=0)
    return model.fit(bits, data.values["F2"][keep])


def _greasy(molecules: Sequence[Any]) -> np.ndarray:
    """Log P less a twentieth for every heavy atom and a half for every ring beyond the third."""
    return np.asarray(
        [
            _crippen.MolLogP(m)
            - 0.05 * m.GetNumHeavyAtoms()
            - 0.5 * max(rdMolDescriptors.CalcNumRings(m) - 3, 0)
            for m in molecules
        ]
    )


OBJECTIVES: dict[str, Callable[[Sequence[Any]], np.ndarray]] = {
    "similarity": functools.partial(_similarity, _morgan3),
    "atom-pairs": functools.partial(_similarity, _pairs),
    "log P": _greasy,
    "docking": lambda molecules: -_forest().predict(_bits(molecules)),
}


def values(objective: str, smiles: Sequence[str]) -> np.ndarray:
    """What an objective says of products, larger is better."""
    return OBJECTIVES[objective]([Chem.MolFromSmiles(text) for text in smiles])


@dataclass(frozen=True)
class Truth:
    """Everything about a library that can be listed.

    Attributes:
        values: (N,) of every combination by number, NaN where there is no product.
        bits: (N, BITS / 8) packed Morgan bits of every combination, for peers that have to see all.
        cut: the value of the hundredth best product.
    """

    values: np.ndarray
    bits: np.ndarray
    cut: float


def truth(size: str, objective: str, cache: Path | None, workers: int) -> Truth:
    """The truth by exhaustive search; kept in a folder, since it takes minutes."""
    if cache is None:
        return _cut(_enumerated(size, [objective], workers), objective)
    place = Path(cache, f"truth-{size}.npz")
    if not place.exists():
        np.savez(place, **_enumerated(size, list(OBJECTIVES), workers))
    with np.load(place) as file:
        return _cut({name: file[name] for name in (objective, "bits", "smiles")}, objective)


def _cut(found: dict[str, np.ndarray], objective: str) -> Truth:
    """With the value of the hundredth different product."""
    own = found[objective]
    order = np.argsort(-np.nan_to_num(own, nan=-np.inf), kind="stable")[: 20 * TOP]
    best = {str(found["smiles"][number]): float(own[number]) for number in order[::-1]}
    return Truth(own, found["bits"], sorted(best.values(), reverse=True)[TOP - 1])


def _enumerated(size: str, objectives: list[str], workers: int) -> dict[str, np.ndarray]:
    reaction = library(size)
    starts = range(0, len(reaction), _BLOCK)
    parts = Parallel(n_jobs=min(workers, len(starts)))(
        delayed(_block)(reaction, objectives, start) for start in starts
    )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _block(reaction: Reaction, objectives: list[str], start: int) -> dict[str, np.ndarray]:
    numbers = np.arange(start, min(start + _BLOCK, len(reaction)))
    rows = np.stack(np.unravel_index(numbers, reaction.sizes), axis=1)
    with rdBase.BlockLogs():
        names = [(outcomes(SMARTS, reaction.reagents(own))[0] or [""])[0] for own in rows]
    there = np.flatnonzero([bool(name) for name in names])
    molecules = [Chem.MolFromSmiles(names[place]) for place in there]
    out: dict[str, np.ndarray] = {"smiles": np.asarray(names, dtype="S")}
    out["bits"] = np.zeros((len(names), BITS // 8), dtype=np.uint8)
    out["bits"][there] = np.packbits(_bits(molecules), axis=1)
    for name in objectives:
        out[name] = np.full(len(names), np.nan)
        out[name][there] = OBJECTIVES[name](molecules)
    return out
