"""Users' tables: CSV, TSV, SMI, SDF, .xlsx and .parquet in any usual encoding, and tables that sggp writes."""

from __future__ import annotations

from sggp.molecules.files.columns import ColumnGuess
from sggp.molecules.files.numbers import (
    Numbers,
    is_missing,
    parse_measurements,
    parse_numbers,
    parse_whole,
    read_numbers,
)
from sggp.molecules.files.read import MoleculeFile, guess_columns, read_molecules, read_table
from sggp.molecules.files.table import DataTable, RejectedRow
from sggp.molecules.files.text import visible
from sggp.molecules.files.write import csv_text, write_rejects

__all__ = [
    "ColumnGuess",
    "DataTable",
    "MoleculeFile",
    "Numbers",
    "RejectedRow",
    "csv_text",
    "guess_columns",
    "is_missing",
    "parse_measurements",
    "parse_numbers",
    "parse_whole",
    "read_molecules",
    "read_numbers",
    "read_table",
    "visible",
    "write_rejects",
]
