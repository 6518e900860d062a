"""`sggp demo`: find the best of 5,000 real molecules with 250 measurements, beside random choice."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress
from torch import Tensor

from sggp.bayesopt.screening import RandomScreenings, Screening, random_screenings, screen
from sggp.checks import one_of
from sggp.cli.console import csv_text, print_table, progress, stderr, stdout
from sggp.cli.molecules.demo_report import picture_file, render
from sggp.datasets import nci_first_5k
from sggp.errors import DataFileError, MoleculeWarning
from sggp.files import write_whole
from sggp.molecules import FingerprintTable, compute_property
from sggp.molecules.properties import PROPERTY_NAMES
from sggp.plotting import new_figure
from sggp.random import as_generator, streams

_KNOWN = 50
_ROUNDS = 10
_BATCH = 20
_REPEATS = 200
_QUICK_LIBRARY = 400
_QUICK_ROUNDS = 2
_QUICK_BATCH = 5
_SHOWN = 10
_FOLDER = Path("demo_output")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.csv, demo.png.")] = _FOLDER,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run that only shows that it works.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws the 50 known molecules and everything else.")] = 1,
    objective: Annotated[
        str, typer.Option("--property", help="What to maximise: " + ", ".join(PROPERTY_NAMES) + ".")
    ] = "logp",
) -> None:
    """Search a real library of molecules, beside random choice with the same budget."""
    one_of(objective, "--property", PROPERTY_NAMES)
    new_figure()  # without matplotlib, refuse before the work
    _folder(out)
    rounds, batch = (_QUICK_ROUNDS, _QUICK_BATCH) if quick else (_ROUNDS, _BATCH)
    with progress() as bar:
        library = _library(bar, _QUICK_LIBRARY if quick else None)
        values = _values(bar, library, objective)
        first, search, chance = streams(as_generator(seed), "known molecules", "search", "random choice")
        known = torch.randperm(len(library), generator=first)[:_KNOWN].tolist()
        task = bar.add_task("rounds of measurements", total=rounds)
        done = screen(
            library,
            values,
            known,
            rounds=rounds,
            batch_size=batch,
            generator=search,
            progress=lambda _: bar.advance(task),
        )
        random = random_screenings(
            values, known, rounds=rounds, batch_size=batch, repeats=_REPEATS, generator=chance
        )
        task = bar.add_task("report", total=1)
        write_whole(out / "results.csv", _results(done, library))
        write_whole(out / "demo.png", picture_file(done, random, objective))
        write_whole(out / "report.html", render(done, random, library, objective))
        bar.advance(task)
    _summary(done, random, library, objective, out)


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(f"cannot make the folder {out}: {error.strerror or error}.") from error


def _library(bar: Progress, limit: int | None) -> FingerprintTable:
    task = bar.add_task("fingerprints of RDKit's NCI molecules", total=1)
    smiles = nci_first_5k().smiles[:limit]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)
        library = FingerprintTable.from_smiles(smiles, on_invalid="drop", on_duplicate="drop")
    unused, repeats = len(library.report.invalid), len(library.report.duplicate_rows)
    bar.console.print(f"{len(library)} molecules ({unused} of the file cannot be parsed, {repeats} repeats)")
    bar.advance(task)
    return library


def _values(bar: Progress, library: FingerprintTable, objective: str) -> Tensor:
    smiles = list(library.smiles or [])
    task = bar.add_task(f"{objective} of every molecule (the truth, for judging)", total=len(smiles))
    out = []
    for start in range(0, len(smiles), 500):
        part = smiles[start : start + 500]
        out.append(torch.from_numpy(compute_property(part, objective)))
        bar.advance(task, len(part))
    return torch.cat(out)


def _results(done: Screening, library: FingerprintTable) -> str:
    header = [
        "order",
        "round",
        "library_row",
        "smiles",
        "value",
        "best_so_far",
        "predicted_mean",
        "predicted_std",
    ]
    lines, best, order = [], float("-inf"), 0
    for number, step in enumerate(done.steps):
        for place, row in enumerate(step.rows):
            order += 1
            value = float(done.values[row])
            best = max(best, value)
            guess = (step.mean[place], step.std[place]) if step.mean else (None, None)
            smiles = library.smiles[row] if library.smiles is not None else ""
            lines.append([order, number, int(library.source_rows[row]), smiles, value, best, *guess])
    return csv_text(header, lines)


def _summary(
    done: Screening, random: RandomScreenings, library: FingerprintTable, objective: str, out: Path
) -> None:
    rows = []
    for rank, (row, number) in enumerate(done.best(_SHOWN), start=1):
        smiles = library.smiles[row] if library.smiles is not None else ""
        rows.append([rank, float(done.values[row]), "known" if number == 0 else number, smiles])
    print_table(f"The best molecules found ({objective})", ["rank", objective, "round", "smiles"], rows)
    top, found = done.top_found()
    chance = random.top_found.mean()
    stdout().print(
        f"best {objective}: {done.curve[-1]:.3f} of at most {float(done.values.max()):.3f}; random choice with the "
        f"same {done.measured} measurements: {random.curves[:, -1].mean():.3f} ± {random.curves[:, -1].std():.3f} "
        f"({len(random.curves)} repeats)"
    )
    stdout().print(
        f"{found} of the library's {top} best molecules found; random choice: {chance:.1f} on average"
    )
    stdout().print(f"report: {out / 'report.html'}; every measurement: {out / 'results.csv'}")
    if not done.learned:
        stderr().print("note: the last model had too little data to learn from")
