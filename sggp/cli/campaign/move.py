"""`sggp campaign export` and `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sggp.bayesopt import Campaign
from sggp.cli.campaign.listing import listing, print_json
from sggp.cli.campaign.opening import Json, Store, files_of, local_files, open_campaign, open_record
from sggp.cli.campaign.results_file import check_batch
from sggp.cli.console import check_outputs, csv_text, stdout
from sggp.files import write_whole


def export(
    store: Store,
    out: Annotated[
        Path, typer.Option(help="File to write: .csv for a table of results, else the whole journal.")
    ],
    library: Annotated[
        Path | None, typer.Option("--library", help="Gives the ids of the molecules to a table.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the campaign to one file: all of it, to be imported elsewhere; or, as .csv, its results."""
    check_outputs({"--out": out}, [*local_files(store), library])
    campaign = open_record(store) if library is None else open_campaign(store, library)
    check_outputs({"--out": out}, files_of(campaign, store))
    check_batch(campaign, store, out)
    trials = campaign.results()
    if out.suffix.lower() == ".csv":
        write_whole(out, csv_text(*listing(campaign, trials, results=True, text=str)))
    else:
        campaign.export(out)
    if json:
        print_json({"campaign": store, "file": str(out), "trials": len(trials)})
    else:
        stdout().print(f"{len(trials)} trials of {store} in {out}")


def import_(
    file: Annotated[Path, typer.Argument(help="File that export wrote.")],
    store: Store,
    json: Json = False,
) -> None:
    """Take over an exported campaign: into a new file, or what is new into one of the same campaign."""
    for path in local_files(store):
        if not path.exists():
            check_outputs({"the campaign": path}, [file])
    campaign = Campaign.import_(file, store)
    count = len(campaign.results())
    if json:
        print_json({"campaign": store, "trials": count})
    else:
        stdout().print(f"{count} trials in {store}")
