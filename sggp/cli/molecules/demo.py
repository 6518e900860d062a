"""`sggp demo`: find the best of 5,000 real molecules with 250 measurements, by several rules beside random choice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress
from torch import Tensor

from sggp.bayesopt.rules import DEFAULT_RULE
from sggp.bayesopt.screening import Screening, random_screenings, screen
from sggp.checks import one_of, whole_number
from sggp.cli.console import csv_text, print_table, progress, stdout
from sggp.cli.molecules.demo_report import picture_file, render
from sggp.cli.molecules.demo_searches import Searches, comparison
from sggp.datasets import nci_first_5k
from sggp.errors import DataFileError, MoleculeWarning
from sggp.files import write_whole
from sggp.molecules import FingerprintTable, compute_property
from sggp.molecules.properties import PROPERTY_NAMES
from sggp.plotting import new_figure
from sggp.random import as_generator, streams

_KNOWN = 50
_REPEATS = 200
_SHOWN = 10
_FOLDER = Path("demo_output")
_OTHERS = ("thompson", "greedy")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.csv, demo.png.")] = _FOLDER,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run that only shows that it works.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws the 50 known molecules and everything else.")] = 1,
    searches: Annotated[
        int, typer.Option(help="Searches of each rule, each with other known molecules.")
    ] = 3,
    objective: Annotated[
        str, typer.Option("--property", help="What to maximise: " + ", ".join(PROPERTY_NAMES) + ".")
    ] = "cns",
) -> None:
    """Search a real library of molecules by three rules, beside random choice with the same budget."""
    one_of(objective, "--property", PROPERTY_NAMES)
    whole_number(searches, "--searches")
    new_figure()  # without matplotlib, refuse before the work
    _folder(out)
    rounds, batch, limit = (2, 5, 400) if quick else (5, 40, None)
    searches = 1 if quick else searches
    with progress() as bar:
        library, left_out = _library(bar, limit)
        values = _values(bar, library, objective)
        rules = list(dict.fromkeys((DEFAULT_RULE, *_OTHERS)))
        task = bar.add_task("batches chosen", total=len(rules) * searches * rounds)
        by_rule: dict[str, list[Screening]] = {rule: [] for rule in rules}
        chance = []
        for number in range(searches):
            first, search, luck = streams(
                as_generator(seed + number), "known molecules", "search", "random choice"
            )
            known = torch.randperm(len(library), generator=first)[:_KNOWN].tolist()
            budget: dict[str, Any] = {"rounds": rounds, "batch_size": batch}
            for rule in rules:
                again = as_generator(search.initial_seed())
                tick = _advance(bar, task)
                by_rule[rule].append(
                    screen(library, values, known, **budget, generator=again, progress=tick, rule=rule)
                )
            chance.append(random_screenings(values, known, **budget, repeats=_REPEATS, generator=luck))
        done = Searches(library, values, objective, by_rule, chance, left_out)
        task = bar.add_task("report", total=1)
        write_whole(out / "results.csv", _results(done))
        write_whole(out / "demo.png", picture_file(done))
        write_whole(out / "report.html", render(done))
        bar.advance(task)
    _summary(done, out)


def _advance(bar: Progress, task: Any) -> Callable[[int], None]:
    return lambda _: bar.advance(task)


_FILES = ("results.csv", "demo.png", "report.html")


def _folder(out: Path) -> None:
    """Make the folder; refuses one that holds files of these names which no demo wrote."""
    there = [name for name in _FILES if (out / name).exists()]
    if there and not _ours(out / "results.csv"):
        raise DataFileError(
            f"{out} holds {', '.join(there)}, not written by sggp demo: choose another folder by --out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(f"cannot make the folder {out}: {error.strerror or error}.") from error


def _ours(results: Path) -> bool:
    try:
        with results.open(encoding="utf-8") as stream:
            return stream.readline().startswith(("rule,search,order,", "order,round,library_row,"))
    except (OSError, UnicodeDecodeError):
        return False


def _library(bar: Progress, limit: int | None) -> tuple[FingerprintTable, dict[str, int]]:
    """The molecules to choose from; salts and mixtures are left out."""
    task = bar.add_task("fingerprints of RDKit's NCI molecules", total=1)
    everything = nci_first_5k().smiles[:limit]
    smiles = [text for text in everything if "." not in text]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)
        library = FingerprintTable.from_smiles(smiles, on_invalid="drop", on_duplicate="drop")
    left_out = {
        "salts and mixtures": len(everything) - len(smiles),
        "not to be parsed": len(library.report.invalid),
        "repeats": len(library.report.duplicate_rows),
    }
    said = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    bar.console.print(f"{len(library)} molecules; left out: {said}")
    bar.advance(task)
    return library, left_out


def _values(bar: Progress, library: FingerprintTable, objective: str) -> Tensor:
    smiles = list(library.smiles or [])
    task = bar.add_task(f"{objective} of every molecule (the truth, for judging)", total=len(smiles))
    out = []
    for start in range(0, len(smiles), 500):
        part = smiles[start : start + 500]
        out.append(torch.from_numpy(compute_property(part, objective)))
        bar.advance(task, len(part))
    return torch.cat(out)


def _results(done: Searches) -> str:
    header = ["rule", "search", "order", "round", "library_row", "smiles", "value", "best_so_far"]
    header += ["predicted_mean", "predicted_std"]
    lines: list[list[Any]] = []
    for rule, searches in done.by_rule.items():
        for number, search in enumerate(searches, start=1):
            lines += [[rule, number, *line] for line in _measurements(search, done.library)]
    return csv_text(header, lines)


def _measurements(search: Screening, library: FingerprintTable) -> list[list[Any]]:
    lines: list[list[Any]] = []
    best = float("-inf")
    for number, step in enumerate(search.steps):
        for place, row in enumerate(step.rows):
            value = float(search.values[row])
            best = max(best, value)
            guess = (step.mean[place], step.std[place]) if step.mean else (None, None)
            smiles = library.smiles[row] if library.smiles is not None else ""
            lines.append([len(lines) + 1, number, int(library.source_rows[row]), smiles, value, best, *guess])
    return lines


def _summary(done: Searches, out: Path) -> None:
    rows: list[list[Any]] = []
    for rank, (row, number) in enumerate(done.main.best(_SHOWN), start=1):
        smiles = done.library.smiles[row] if done.library.smiles is not None else ""
        rows.append([rank, float(done.values[row]), "known" if number == 0 else number, smiles])
    print_table(
        f"The best molecules found ({done.objective})", ["rank", done.objective, "round", "smiles"], rows
    )
    header, lines = comparison(done)
    print_table(f"{done.main.measured} measurements each, {len(done.chance)} searches a rule", header, lines)
    stdout().print(f"best {done.objective} of the library: {float(done.values.max()):.4f}")
    stdout().print(f"report: {out / 'report.html'}; every measurement: {out / 'results.csv'}")
