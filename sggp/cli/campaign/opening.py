"""Campaigns as the commands open them: from a file or a database, with their library or without it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from sggp.bayesopt import Campaign, Pool
from sggp.bayesopt.storage import open_storage
from sggp.cli.console import stderr
from sggp.cli.molecules.products import products_cache, read_space, space_files
from sggp.cli.molecules.tables import default_cache, load_library
from sggp.errors import DataFileError
from sggp.molecules import FingerprintTable, SmilesFingerprinter
from sggp.molecules.reactions.reaction import reagent_files

Store = Annotated[str, typer.Argument(help="Campaign file, e.g. week.db, or the URL of a database.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in the place of tables.")]
Library = Annotated[
    Path | None,
    typer.Option(
        "--library", help="Where the library, or the reaction file, is now; kept for the next time."
    ),
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
    if is_products(campaign):
        return _open_products(campaign, store, library)
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


def is_products(campaign: Campaign) -> bool:
    """Whether the campaign chooses among the products of reactions."""
    return campaign.settings["space"].get("kind") == "reactions"


def _open_products(campaign: Campaign, store: str, file: Path | None) -> Campaign:
    """With the products of its reaction file, which may be elsewhere now or have other reagents."""
    info = campaign.info
    if file is None:
        if "reaction" not in info:
            raise DataFileError(
                f"{store} was started from Python: continue it from there, or name a reaction file by --library."
            )
        file = Path(info["reaction"])
        if not file.exists():
            raise DataFileError(
                f"the reaction file of {store} is no longer at {file}: give --library FILE.json with its new place. "
                "tell, fail, status and export work without it."
            )
    space = read_space(file, cache=products_cache(), fingerprint=info.get("fingerprint"), whole=False)
    before, now = campaign.settings["space"], space.describe()
    if before != now:
        sizes = [
            ", ".join(" x ".join(map(str, one["sizes"])) for one in known["reactions"])
            for known in (before, now)
        ]
        words = f"other reagents, reactions or filters than at the start ({sizes[0]}, now {sizes[1]})"
        stderr().print(f"note: {file.name} has {words}; trials keep their products and values")
    if str(file.resolve()) != info.get("reaction"):
        campaign.set_info({"reaction": str(file.resolve())}, why="the reaction file is elsewhere")
    return Campaign(space, store)


def files_of(campaign: Campaign, store: str) -> list[Path]:
    """What no output of a command may replace: the campaign, its library, its reactions and their reagents."""
    kept = [campaign.info.get(name) for name in ("library", "reaction")]
    reagents: list[Path] = []
    if campaign.has_space and is_products(campaign):
        reagents = space_files(campaign.space)  # type: ignore[arg-type]
    elif kept[1]:
        with suppress(DataFileError):  # a reaction file that is gone or damaged names none
            reagents = reagent_files(kept[1])
    return [*local_files(store), *(Path(one) for one in kept if one), *reagents]


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
