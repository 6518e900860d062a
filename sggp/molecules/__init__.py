"""Molecules: SMILES to count fingerprints, packed tables of libraries, users' files, properties and drawings.

Only `_rdkit.py`, `_chemistry.py` and `reactions/_reactor.py` import RDKit, and only when a SMILES has to be read:
tables that exist can be opened without it.
Names are fetched from their modules on first use, so that worker processes load RDKit and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sggp.lazy import names_on_demand

if TYPE_CHECKING:
    from sggp.molecules.files import (
        ColumnGuess,
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
    from sggp.molecules.reactions.filters import ProductFilter
    from sggp.molecules.reactions.library import ReactionLibrary
    from sggp.molecules.reactions.reaction import Reaction, read_reactions
    from sggp.molecules.report import DuplicateGroup, InvalidMolecule, InvalidReport
    from sggp.molecules.standardise import ParentMatch, Standardised, Standardiser
    from sggp.molecules.table import FingerprintTable

__all__ = [
    "ColumnGuess",
    "DataTable",
    "DuplicateGroup",
    "FingerprintTable",
    "InvalidMolecule",
    "InvalidReport",
    "MoleculeFile",
    "ParentMatch",
    "ProductFilter",
    "Reaction",
    "ReactionLibrary",
    "RejectedRow",
    "SmilesFingerprinter",
    "Standardised",
    "Standardiser",
    "compute_property",
    "draw_grid",
    "guess_columns",
    "logp",
    "molecule_svg",
    "qed",
    "read_molecules",
    "read_reactions",
    "read_table",
    "write_rejects",
]

_NAMES_OF = {
    "files": (
        "ColumnGuess",
        "DataTable",
        "MoleculeFile",
        "RejectedRow",
        "guess_columns",
        "read_molecules",
        "read_table",
        "write_rejects",
    ),
    "fingerprinter": ("SmilesFingerprinter",),
    "properties": ("compute_property", "draw_grid", "logp", "molecule_svg", "qed"),
    "reactions.filters": ("ProductFilter",),
    "reactions.library": ("ReactionLibrary",),
    "reactions.reaction": ("Reaction", "read_reactions"),
    "report": ("DuplicateGroup", "InvalidMolecule", "InvalidReport"),
    "standardise": ("ParentMatch", "Standardised", "Standardiser"),
    "table": ("FingerprintTable",),
}
__getattr__, __dir__ = names_on_demand(
    __name__, {f"{__name__}.{module}": names for module, names in _NAMES_OF.items()}
)
