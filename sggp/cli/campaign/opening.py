"""Campaigns as the commands open them: from a file or a database, with their library or without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sggp.bayesopt import Campaign, Pool
from sggp.bayesopt.storage import open_storage
from sggp.cli.console import stderr
from sggp.cli.molecules.tables import default_cache, load_library
from sggp.errors import DataFileError
from sggp.molecules import FingerprintTable, SmilesFingerprinter

Store = Annotated[str, typer.Argument(help="Campaign file, e.g. week.db, or the URL of a database.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in the place of tables.")]
Library = Annotated[
    Path | None, typer.Option("--library", help="Where the library is now; kept for the next time.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the journal.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write them to this CSV file.")]


def local_files(store: str) -> list[Path]:
    """The campaign's own file, which no output may replace; none for a database elsewhere."""
    return [] if "://" in store else [Path(store)]


def open_record(store: str) -> Campaign:
    """The campaign without its library: to read it, and to report results.

    Raises:
        DataFileError: there is none.
    """
    kept = open_storage(store)
    if not kept.exists:
        raise DataFileError(f"{store}: no such campaign; start one with: sggp campaign init {store} ...")
    return Campaign.open(kept)


def open_campaign(store: str, library: Path | None) -> Campaign:
    """The campaign with its space, so that it can ask.

    Args:
        store: file or URL.
        library: where the library is now; None where it was.

    Raises:
        DataFileError: no such campaign; its library is not where it was; or it was started from Python.
    """
    campaign = open_record(store)
    if campaign.has_space:
        if library is not None:
            raise DataFileError(
                f"{store} is a campaign over settings, not over a library: leave out --library."
            )
        return campaign
    info = campaign.info
    if library is None:
        if "library" not in info:
            raise DataFileError(
                f"{store} was started from Python with its own pool: continue it from there, or name a library of "
                "molecules by --library."
            )
        library = Path(info["library"])
        if not library.exists():
            raise DataFileError(
                f"the library of {store} is no longer at {library}: give --library FILE with its new place. tell, "
                "fail, status and export work without it."
            )
    table, _ = read_library(library, info)
    if str(library.resolve()) != info.get("library"):
        campaign.set_info({"library": str(library.resolve())}, why="the library is elsewhere")
    return Campaign(Pool(table), store)


def read_library(library: Path, info: dict[str, Any]) -> tuple[FingerprintTable, list[Any]]:
    """The fingerprints of a library file, and its rejected rows, as `info` says.

    Args:
        library: the file.
        info: columns "smiles" and "id", "sheet", and the settings of "fingerprint", None for a new campaign's.
    """
    settings = info.get("fingerprint", {})  # campaigns of before are of Morgan's alone
    return load_library(
        library,
        fingerprinter=SmilesFingerprinter(**settings) if settings is not None else None,
        smiles_column=info.get("smiles"),
        id_column=info.get("id"),
        cache=default_cache(),
        sheet=info.get("sheet"),
    )


def try_campaign(store: str, library: Path | None) -> Campaign:
    """As `open_campaign`; without the library, said, where it is not to be had."""
    if library is not None:
        return open_campaign(store, library)
    try:
        return open_campaign(store, None)
    except DataFileError as error:
        campaign = open_record(store)
        stderr().print(f"note: without its library: {error}")
        return campaign
