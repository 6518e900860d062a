"""`sggp suggest`: the next molecules to measure, from a user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sggp.bayesopt import Pool, Surrogate, fit_surrogate
from sggp.bayesopt.rules import DEFAULT_RULE, RULES, Choice, Rule, check_rule, make_rule
from sggp.checks import whole_number
from sggp.cli.console import (
    check_output,
    csv_text,
    direction,
    print_table,
    progress,
    stderr,
    stdout,
)
from sggp.cli.molecules.suggest_report import render
from sggp.cli.molecules.tables import Measured, default_cache, load_library, load_measured, write_rejects
from sggp.errors import DataFileError, InputError
from sggp.files import write_whole
from sggp.molecules import FingerprintTable
from sggp.plotting import new_figure
from sggp.random import as_generator, draw_seed, streams

_SHOWN = 20
_HEADER = ["rank", "id", "smiles", "predicted_mean", "predicted_std", "why", "library_row"]


def suggest(
    measured: Annotated[Path, typer.Option(help="CSV of measured molecules: SMILES and value. gz accepted.")],
    library: Annotated[Path, typer.Option(help="CSV or SMI file of candidates. gz accepted.")],
    out: Annotated[Path, typer.Option(help="CSV file to write; unusable rows go to OUT's .rejected.csv.")],
    q: Annotated[int, typer.Option("-q", "--batch-size", help="How many molecules to suggest.")] = 96,
    maximize: Annotated[bool, typer.Option("--maximize", help="Larger values are better.")] = False,
    minimize: Annotated[bool, typer.Option("--minimize", help="Smaller values are better.")] = False,
    smiles_column: Annotated[str | None, typer.Option(help="SMILES column of the measured file.")] = None,
    value_column: Annotated[str | None, typer.Option(help="Value column of the measured file.")] = None,
    library_smiles_column: Annotated[str | None, typer.Option(help="SMILES column of the library.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Id column of the library.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed and files, same suggestions.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps fingerprints between calls.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no fingerprints.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report to this file.")] = None,
    rule: Annotated[str, typer.Option(help="How to choose: " + ", ".join(RULES) + ".")] = DEFAULT_RULE,
) -> None:
    """Choose the next molecules to measure from a library."""
    better = direction(maximize, minimize)
    whole_number(q, "-q")
    check_rule(rule)
    for path in (out, report):
        if path is not None:
            check_output(path, measured, library)
    if report is not None:
        new_figure()  # without matplotlib, refuse before the work
    where = None if no_cache else (cache or default_cache())
    rejected = out.with_suffix(".rejected.csv")
    root = as_generator(draw_seed(as_generator(None)) if seed is None else seed)
    learn, choose = streams(root, "model", "choice")

    candidates, rejects = load_library(
        library, smiles_column=library_smiles_column, id_column=id_column, cache=where
    )
    known = load_measured(measured, smiles_column=smiles_column, value_column=value_column, like=candidates)
    rejects += known.rejects
    write_rejects(rejected, rejects)
    stderr().print(f"{len(known)} measurements and {len(candidates)} candidates; {len(rejects)} unused rows")
    if not len(known):
        raise DataFileError(f"{measured}: no usable measurement; {len(rejects)} unused rows in {rejected}.")
    exclude = measured_rows(candidates, known)
    if len(candidates) - len(exclude) < q:
        raise InputError(
            f"-q {q} molecules are asked for but the library has only {len(candidates) - len(exclude)} that are "
            "not measured yet."
        )
    chooser = make_rule(rule, Pool(candidates), q, maximize=better)
    model = fit_surrogate(
        known.counts,
        known.values,
        num_samples=chooser.num_samples,
        generator=learn,
        parts=candidates.parts,
    )
    choice = choose_rows(chooser, model, exclude, choose)
    header, listed = _listing(candidates, model, choice)
    if report is not None:
        write_whole(report, render(model, known, header, listed, better))
    write_whole(out, csv_text(header, listed))
    _summary(model, header, listed, out, rejected, len(rejects))


def measured_rows(candidates: FingerprintTable, known: Measured) -> list[int]:
    """Library rows that hold a measured molecule, by canonical SMILES."""
    found = candidates.locate(sorted(set(known.canonical)))
    return sorted({int(row) for row in found if row >= 0})


def choose_rows(chooser: Rule, model: Surrogate, exclude: list[int], generator: torch.Generator) -> Choice:
    """The batch in the order in which the rule chose it, with the reasons in the values' units."""
    with progress() as bar:
        task = bar.add_task("searching the library", total=len(chooser.space))  # type: ignore[arg-type]
        chooser.progress = lambda done: bar.update(task, completed=done)
        scaling = (model.offset, model.scale)
        return chooser.choose(model.posterior, exclude=exclude, generator=generator, scaling=scaling)


def _listing(
    candidates: FingerprintTable, model: Surrogate, choice: Choice
) -> tuple[list[str], list[list[Any]]]:
    """Header and one line per suggested molecule; without the column of ids where the library has none."""
    rows = choice.places
    mean, std = model.predict(candidates[rows])
    names, ids = candidates.smiles or (), candidates.ids
    lines = [
        [rank, None if ids is None else ids[row], names[row], m, s, why, int(candidates.source_rows[row])]
        for rank, (row, m, s, why) in enumerate(
            zip(rows.tolist(), mean.tolist(), std.tolist(), choice.why, strict=True), start=1
        )
    ]
    if ids is not None:
        return list(_HEADER), lines
    return [name for name in _HEADER if name != "id"], [[line[0], *line[2:]] for line in lines]


def _summary(
    model: Surrogate, header: list[str], listed: list[list[Any]], out: Path, rejected: Path, unused: int
) -> None:
    if not model.learned:
        stderr().print("note: too few or constant measurements to learn from: the choice is close to random")
    shown = [name for name in header if name in ("rank", "id", "smiles", "predicted_mean", "predicted_std")]
    rows = [[line[header.index(name)] for name in shown] for line in listed[:_SHOWN]]
    names = [name.replace("predicted_", "") for name in shown]
    print_table(f"{len(rows)} of {len(listed)} suggestions", names, rows)
    stdout().print(f"{len(listed)} suggestions in {out}; {unused} unused rows in {rejected}")
