"""Molecule sets: SMILES and measured or computed values."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sggp.datasets.files import data_file
from sggp.errors import DataFileError, missing_extra

_DOCKSTRING_CLIP = 5.0


@dataclass(frozen=True)
class MoleculeData:
    """m molecules.

    Attributes:
        name: of the set.
        smiles: m texts.
        values: target name → (m,) float64 (NaN where there is no value).
        ids: m texts, or empty.
        split: m labels such as "train" and "test", or empty.
    """

    name: str
    smiles: tuple[str, ...]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    split: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.smiles)

    def __repr__(self) -> str:
        return f"MoleculeData({self.name!r}, {len(self)} molecules, {len(self.values)} targets)"


def dockstring_small() -> MoleculeData:
    """5,000 molecules with docking scores for 58 proteins (kcal/mol, lower is better), clipped at +5, and a split.

    `split` is the random half/half split of the publication the table comes from, not the cluster split of the
    DOCKSTRING benchmark. Needs `SGGP_DATA_DIR`.

    Source: García-Ortegón et al., J. Chem. Inf. Model. 62 (2022) 3486; table of github.com/mgarort/graph-nps-for-mols.
    """
    columns = _columns(data_file("mol/dockstring_small_5000x58.csv.gz"))
    labels = {"inchikey", "smiles", "split", "min_PPAR", "selective_JAK2"}
    values = {
        name: np.minimum(_numbers(cells), _DOCKSTRING_CLIP)
        for name, cells in columns.items()
        if name not in labels
    }
    return MoleculeData(
        "dockstring_small",
        tuple(columns["smiles"]),
        values,
        tuple(columns["inchikey"]),
        tuple(columns["split"]),
    )


def dockstring_evaluated() -> MoleculeData:
    """343,060 molecules that optimisers had docked, NaN where one was not: F2 for 97,045 of them; lower is better.

    Scores are in kcal/mol; beside them QED and log P (larger is better). What optimisers invent is often
    odd, and a few of the SMILES cannot be parsed. Needs `SGGP_DATA_DIR`.

    Source: García-Ortegón et al., J. Chem. Inf. Model. 62 (2022) 3486; github.com/dockstring/experiments-from-paper.
    """
    columns = _columns(data_file("mol/dockstring_molopt_evaluated.csv.gz"))
    smiles = tuple(columns.pop("smiles"))
    del columns["method"]
    values = {name: _numbers(cells) for name, cells in columns.items()}
    return MoleculeData("dockstring_evaluated", smiles, values)


def enamine10k() -> MoleculeData:
    """10,449 molecules that can be bought, with docking scores (kcal/mol, lower is better). Needs `SGGP_DATA_DIR`.

    Source: Graff, Shakhnovich & Coley, Chem. Sci. 12 (2021) 7866; target 4UNN; github.com/coleygroup/molpal.
    """
    columns = _columns(data_file("mol/enamine10k_4unn_docking.csv.gz"))
    return MoleculeData("enamine10k", tuple(columns["smiles"]), {"score": _numbers(columns["score"])})


def tyk2() -> MoleculeData:
    """9,997 inhibitors of TYK2 with computed binding free energies (kcal/mol, lower is better). Needs `SGGP_DATA_DIR`.

    Source: Thompson et al., Artif. Intell. Life Sci. 2 (2022) 100050; table of github.com/PatWalters'
    practical_cheminformatics_tutorials.
    """
    columns = _columns(data_file("mol/tyk2_fep_10k.csv.gz"))
    values = {"free_energy": _numbers(columns["dG_bind"])}
    return MoleculeData("tyk2", tuple(columns["SMILES"]), values, tuple(columns["ligand_id"]))


def zinc250k() -> MoleculeData:
    """249,455 drug-like molecules of ZINC, SMILES only. Needs `SGGP_DATA_DIR`."""
    return MoleculeData("zinc250k", tuple(_columns(data_file("mol/zinc250k.smi.csv.gz"))["smiles"]))


def esol() -> MoleculeData:
    """1,128 molecules with measured log10 solubility in water (mol/l). Needs `SGGP_DATA_DIR`.

    Source: Delaney, J. Chem. Inf. Comput. Sci. 44 (2004) 1000.
    """
    measured = "measured log solubility in mols per litre"
    return _measured("esol", "log_solubility", measured, ids="Compound ID")


def freesolv() -> MoleculeData:
    """642 molecules with measured hydration free energy (kcal/mol). Needs `SGGP_DATA_DIR`.

    Source: Mobley & Guthrie, J. Comput. Aided Mol. Des. 28 (2014) 711.
    """
    return _measured("freesolv", "hydration_free_energy", "expt", ids="iupac")


def lipophilicity() -> MoleculeData:
    """4,200 molecules with measured octanol-water log D at pH 7.4. Needs `SGGP_DATA_DIR`.

    Source: AstraZeneca's deposition in ChEMBL (CHEMBL3301361).
    """
    return _measured("lipophilicity", "logd", "exp", ids="CMPD_CHEMBLID")


def nci_first_5k() -> MoleculeData:
    """The first 5,000 or so molecules of the NCI open database, SMILES only: any RDKit wheel carries them.

    Some SMILES of the file cannot be parsed or occur twice; they are left in. Needs the extra `molecules`.
    """
    rows = _tab_separated(_rdkit_folder("RDDataDir") / "NCI" / "first_5K.smi")
    return MoleculeData("nci_first_5k", tuple(row[0] for row in rows), {}, tuple(row[1] for row in rows))


def free_wilson() -> MoleculeData:
    """Molecules of one series (CHEMBL2321810) with measured pIC50, from RDKit's contributed files.

    Molecules without an activity, and activities without a structure, are left out. Needs the extra `molecules`; raises
    `DataFileError` with an RDKit that comes without its Contrib folder.
    """
    folder = _rdkit_folder("RDContribDir") / "FreeWilson" / "data"
    smiles = {row[1]: row[0] for row in _tab_separated(folder / "CHEMBL2321810.smi", separator=None)}
    columns = _columns(folder / "CHEMBL2321810_act.csv")
    keys, measured = list(columns.values())[:2]
    known = [(key, value) for key, value in zip(keys, _numbers(measured), strict=True) if key in smiles]
    return MoleculeData(
        "free_wilson",
        tuple(smiles[key] for key, _ in known),
        {"pic50": np.asarray([value for _, value in known])},
        tuple(key for key, _ in known),
    )


def _measured(name: str, target: str, column: str, *, ids: str) -> MoleculeData:
    columns = _columns(data_file(f"mol/{name}.csv.gz"))
    values = {target: _numbers(columns[column])}
    return MoleculeData(name, tuple(columns["smiles"]), values, tuple(columns[ids]))


def _rdkit_folder(attribute: str) -> Path:
    try:
        from rdkit import RDConfig  # an extra
    except ImportError as error:
        raise missing_extra("this data set comes with RDKit", "molecules", error) from error
    return Path(getattr(RDConfig, attribute))


def _tab_separated(path: Path, separator: str | None = "\t") -> list[list[str]]:
    try:
        return [line.split(separator) for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataFileError(f"this RDKit does not carry {path.name}: {error.strerror or error}.") from error


def _columns(path: Path) -> dict[str, list[str]]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        records = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataFileError(f"{path} cannot be read ({error}).") from error
    if len(records) < 2:
        raise DataFileError(f"{path} has no data row.")
    return {name: list(cells) for name, cells in zip(records[0], zip(*records[1:], strict=True), strict=True)}


def _numbers(cells: list[str]) -> np.ndarray:
    return np.asarray([float(cell) if cell else np.nan for cell in cells], dtype=np.float64)
