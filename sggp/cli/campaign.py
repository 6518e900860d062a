"""`sggp campaign`: ask for measurements and tell results across days, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sggp.bayesopt import Box, Campaign, Pool, Trial
from sggp.bayesopt.rules import DEFAULT_BOX_RULE, DEFAULT_RULE, RULES, check_rule
from sggp.bayesopt.storage import SQLiteStorage
from sggp.bayesopt.trials import Place
from sggp.checks import whole_number
from sggp.cli.console import check_output, csv_text, direction, print_table, stderr, stdout
from sggp.cli.molecules.tables import check_columns, default_cache, load_library, load_measured, write_rejects
from sggp.cli.report import page, paragraph, picture, rows_table
from sggp.errors import DataFileError, InputError
from sggp.files import write_whole
from sggp.molecules.files import parse_numbers, read_table

app = typer.Typer(help="A measurement campaign kept in one file.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="Campaign file, e.g. campaign.db.")]
_BEST = 10
_RULES = f"How to choose: {', '.join(RULES)}; default {DEFAULT_RULE}, in a box {DEFAULT_BOX_RULE}."


@app.command()
def init(
    store: Store,
    library: Annotated[
        Path | None, typer.Option(help="Molecules to choose from (CSV or SMI, gz accepted).")
    ] = None,
    bound: Annotated[
        list[str] | None, typer.Option(help="One input as NAME=LOW:HIGH; repeat per input.")
    ] = None,
    maximize: Annotated[bool, typer.Option("--maximize", help="Larger values are better.")] = False,
    minimize: Annotated[bool, typer.Option("--minimize", help="Smaller values are better.")] = False,
    measured: Annotated[
        Path | None, typer.Option(help="Measurements made before (library campaigns).")
    ] = None,
    smiles_column: Annotated[str | None, typer.Option(help="SMILES column of the measured file.")] = None,
    value_column: Annotated[str | None, typer.Option(help="Value column of the measured file.")] = None,
    library_smiles_column: Annotated[str | None, typer.Option(help="SMILES column of the library.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Id column of the library.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the campaign reproducible.")] = None,
    rule: Annotated[str | None, typer.Option(help=_RULES)] = None,
) -> None:
    """Start a campaign over a library of molecules or a box of numbers."""
    better = direction(maximize, minimize)
    if rule is not None:
        check_rule(rule)
    check_output(store)
    if SQLiteStorage(store).exists:
        raise InputError(f"{store} exists already; a campaign is never overwritten.")
    if (library is None) == (not bound):
        raise InputError("give either --library FILE or one --bound NAME=LOW:HIGH per input.")
    if library is None:
        if measured is not None:
            raise InputError("--measured is for library campaigns; tell results of a box by ask and tell.")
        names, box = _box(bound or [])
        campaign = Campaign(box, store, maximize=better, seed=seed, info={"names": names}, rule=rule)
    else:
        pool, rejects = load_library(
            library, smiles_column=library_smiles_column, id_column=id_column, cache=default_cache()
        )
        info = {"library": str(library.resolve()), "smiles": library_smiles_column, "id": id_column}
        prior = []
        if measured is not None:
            known = load_measured(measured, smiles_column=smiles_column, value_column=value_column, like=pool)
            rejects += known.rejects
            if not len(known):
                raise DataFileError(f"{measured}: no usable measurement ({len(known.rejects)} unused rows).")
            rows = pool.locate(known.canonical)
            prior = [
                (int(row) if row >= 0 else Place(x=tuple(counts.tolist()), label=smiles), value)
                for row, counts, smiles, value in zip(
                    rows, known.counts, known.smiles, known.values, strict=True
                )
            ]
        write_rejects(store.with_suffix(".rejected.csv"), rejects)
        campaign = Campaign(Pool(pool), store, maximize=better, seed=seed, info=info, rule=rule)
        campaign.attach_many(prior)
    stdout().print(
        f"campaign {store}: {'maximise' if better else 'minimise'}, {len(campaign.results())} measured"
    )


@app.command()
def ask(
    store: Store,
    q: Annotated[int, typer.Option("-q", "--batch-size", help="How many points.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write them to this CSV file.")] = None,
) -> None:
    """Get the next points to measure."""
    whole_number(q, "-q")
    if out is not None:
        check_output(out, store)
    campaign = _open(store)
    trials = campaign.ask(q)
    header, rows = _listing(campaign, trials, state=False)
    if out is not None:
        write_whole(out, csv_text([*header, "value"], ([*row, None] for row in rows)))
    print_table(f"{len(trials)} points to measure", header, rows)


@app.command()
def tell(
    store: Store,
    trial: Annotated[int | None, typer.Argument(help="Number of the trial.")] = None,
    value: Annotated[float | None, typer.Argument(help="Its measurement.")] = None,
    file: Annotated[Path | None, typer.Option("--from", help="CSV file with columns id and value.")] = None,
) -> None:
    """Report measurements: one on the command line, or many from a file (all or none)."""
    if file is None:
        if trial is None or value is None:
            raise InputError("give a trial number and its value, or --from FILE.")
        results = [(trial, value)]
    else:
        if trial is not None:
            raise InputError("give either one trial or --from FILE, not both.")
        results = _results(file)
    stored = _open(store).tell_many(results)
    stdout().print(f"{len(stored)} measurement(s) stored in {store}")


@app.command()
def fail(
    store: Store,
    trial: Annotated[int, typer.Argument(help="Number of the trial.")],
    reason: Annotated[str, typer.Option(help="Why it could not be measured.")] = "",
) -> None:
    """Report that a trial could not be measured."""
    _open(store).fail(trial, reason)
    stdout().print(f"trial {trial} marked failed in {store}")


@app.command()
def status(store: Store) -> None:
    """Show what is measured and pending, and the best so far."""
    campaign = _open(store)
    trials = campaign.results()
    states = [trial.state for trial in trials]
    counted = ", ".join(f"{states.count(name)} {name}" for name in ("measured", "pending", "failed"))
    stdout().print(f"{store}: {'maximise' if campaign.maximize else 'minimise'}; {counted}")
    header, rows = _listing(campaign, campaign.best(_BEST), state=True)
    if rows:
        print_table("best so far", header, rows)
    header, rows = _listing(campaign, campaign.pending, state=False)
    if rows:
        print_table("pending", header, rows)


@app.command()
def report(store: Store, out: Annotated[Path, typer.Option(help="HTML file to write.")]) -> None:
    """Write an HTML report of the campaign."""
    from sggp.plotting import new_figure, plot_best_so_far

    check_output(out, store)
    campaign = _open(store)
    values = [trial.value for trial in campaign.results() if trial.value is not None]
    sections = [("State", paragraph(f"{len(values)} measurements, {len(campaign.pending)} pending."))]
    if values:
        better = np.maximum if campaign.maximize else np.minimum
        figure = new_figure(7.0, 4.0)
        counts = list(range(1, len(values) + 1))
        best = list(better.accumulate(values))
        plot_best_so_far(best, measurements=counts, label="campaign", axes=figure.subplots())
        sections.append(("Best value so far", picture(figure, "best value against measurements")))
        sections.append(("Best trials", rows_table(*_listing(campaign, campaign.best(_BEST), state=True))))
    sections.append(("All trials", rows_table(*_listing(campaign, campaign.results(), state=True))))
    write_whole(out, page(f"Campaign {store.name}", sections))
    stdout().print(f"report in {out}")


def _open(store: Path) -> Campaign:
    """The campaign in a file, with the space it was started on."""
    stored = SQLiteStorage(store)
    if not stored.exists:
        raise DataFileError(f"{store}: no such campaign; start one with: sggp campaign init {store} ...")
    meta = stored.meta()
    info = meta["info"]
    if meta["space"]["kind"] == "box":
        return Campaign(Box(meta["space"]["bounds"]), store)
    if "library" not in info:
        raise DataFileError(f"{store} was started from Python with its own pool: continue it from there.")
    library, _ = load_library(
        Path(info["library"]), smiles_column=info["smiles"], id_column=info["id"], cache=default_cache()
    )
    return Campaign(Pool(library), store)


def _box(bounds: list[str]) -> tuple[list[str], Box]:
    names, table_ = [], []
    for text in bounds:
        try:
            name, interval = text.split("=", 1)
            limits = [float(end) for end in interval.split(":", 1)]
        except ValueError:
            name, limits = "", []
        if not name or len(limits) != 2:
            raise InputError(f"--bound must be NAME=LOW:HIGH with two numbers, got {text!r}.")
        names.append(name)
        table_.append(limits)
    if len(set(names)) != len(names):
        raise InputError(f"inputs must have different names, got {', '.join(names)}.")
    return names, Box(table_)


def _listing(campaign: Campaign, trials: list[Trial], *, state: bool) -> tuple[list[str], list[list[Any]]]:
    header = ["id", *campaign.info.get("names", campaign.space.names), *(["state", "value"] if state else [])]
    rows = [
        [trial.id, *campaign.space.cells(trial), *([trial.state, trial.value] if state else [])]
        for trial in trials
    ]
    return header, rows


def _results(file: Path) -> list[tuple[int, float]]:
    data = read_table(file)
    check_columns(data, ("id", "value"))
    values, bad = parse_numbers(data.columns["value"])
    results = []
    for position, cell in enumerate(data.columns["id"]):
        line = int(data.lines[int(data.rows[position])])
        if bad.get(position) == "no value":
            stderr().print(f"line {line}: no value yet, left pending")
            continue
        if position in bad:
            raise InputError(f"{file} line {line}: {bad[position]}; nothing was stored.")
        try:
            results.append((int(cell), float(values[position])))
        except ValueError as error:
            raise InputError(f"{file} line {line}: {cell!r} is no trial id; nothing was stored.") from error
    if data.rejected:
        first = data.rejected[0]
        raise InputError(f"{file} line {first.line}: {first.reason}; nothing was stored.")
    if not results:
        raise InputError(f"{file}: no row has a value yet.")
    return results
