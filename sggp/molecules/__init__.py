"""Molecules: SMILES to count fingerprints, packed tables of libraries, users' files, properties and drawings.

Only `_rdkit.py` imports RDKit, and only when a SMILES has to be read: tables that exist can be opened without it.
"""

from sggp.molecules.columns import ColumnGuess
from sggp.molecules.files import (
    DataTable,
    MoleculeFile,
    RejectedRow,
    guess_columns,
    read_molecules,
    read_table,
    write_rejects,
)
from sggp.molecules.fingerprinter import SmilesFingerprinter
from sggp.molecules.properties import compute_property, draw_grid, logp, molecule_svg, qed
from sggp.molecules.report import DuplicateGroup, InvalidMolecule, InvalidReport
from sggp.molecules.table import FingerprintTable

__all__ = [
    "ColumnGuess",
    "DataTable",
    "DuplicateGroup",
    "FingerprintTable",
    "InvalidMolecule",
    "InvalidReport",
    "MoleculeFile",
    "RejectedRow",
    "SmilesFingerprinter",
    "compute_property",
    "draw_grid",
    "guess_columns",
    "logp",
    "molecule_svg",
    "qed",
    "read_molecules",
    "read_table",
    "write_rejects",
]
