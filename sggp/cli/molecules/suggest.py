"""`sggp suggest`: the next molecules to measure, from a user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from sggp.bayesopt import Combinatorial, Pool, Surrogate
from sggp.bayesopt.outcomes.censored import fit_censored
from sggp.bayesopt.outcomes.outliers import set_apart
from sggp.bayesopt.outcomes.tables import SIDES, BeliefSettings, Table
from sggp.bayesopt.rules import DEFAULT_RULE, RULES, Choice, Rule, check_rule, make_rule
from sggp.bayesopt.surrogate import NO_SCALE
from sggp.checks import one_of, whole_number
from sggp.cli.console import (
    check_outputs,
    csv_text,
    direction,
    print_table,
    progress,
    say,
    stderr,
    stdout,
)
from sggp.cli.molecules.forms import same_molecules
from sggp.cli.molecules.products import (
    making,
    narrow,
    product_rows,
    products_cache,
    read_space,
    recall_products,
    space_files,
    unused_reagents,
)
from sggp.cli.molecules.stream import (
    PLACES,
    Stream,
    seed_of,
    stream_files,
    unused_rows,
    with_places,
)
from sggp.cli.molecules.suggest_report import render
from sggp.cli.molecules.tables import (
    Decimal,
    Measured,
    Reject,
    Sheet,
    default_cache,
    load_library,
    load_measured,
    write_rejects,
)
from sggp.cli.outputs import rejected_path
from sggp.errors import DataFileError, InputError
from sggp.files import write_whole
from sggp.molecules import FingerprintTable, SmilesFingerprinter, molecule_svg, read_table
from sggp.molecules.files import DataTable
from sggp.molecules.standardise import POLICIES
from sggp.plotting import new_figure
from sggp.random import as_generator, streams

_SHOWN = 20
_DECADES = 1000.0  # ratio of positive values from which on their logarithms are recommended
_CHUNK = 2048  # molecules of the library that are looked at together
_HEADER = ["rank", "id", "smiles", "predicted_mean", "predicted_std", "why", "library_row"]


_Measured = Annotated[
    Path, typer.Option(help="Measured molecules, SMILES and value: CSV, xlsx, parquet, sdf.")
]
_Library = Annotated[Path | None, typer.Option(help="Candidates: CSV, smi, xlsx, parquet, sdf. gz accepted.")]
_Reaction = Annotated[
    Path | None, typer.Option(help="Products to choose from: a JSON file of reactions and lists of reagents.")
]
_Out = Annotated[Path, typer.Option(help="CSV file to write; unusable rows go to OUT's .rejected.csv.")]
_Batch = Annotated[int, typer.Option("-q", "--batch-size", help="How many molecules to suggest.")]
_Maximize = Annotated[bool, typer.Option("--maximize", help="Larger values are better.")]
_Minimize = Annotated[bool, typer.Option("--minimize", help="Smaller values are better.")]
_SmilesColumn = Annotated[str | None, typer.Option(help="SMILES column of the measured file.")]
_ValueColumn = Annotated[str | None, typer.Option(help="Value column of the measured file.")]
_LibrarySmilesColumn = Annotated[str | None, typer.Option(help="SMILES column of the library.")]
_IdColumn = Annotated[str | None, typer.Option(help="Id column of the library.")]
_Seed = Annotated[int | None, typer.Option(help="Same seed and files, same suggestions.")]
_Cache = Annotated[Path | None, typer.Option(help="Folder that keeps fingerprints between calls.")]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no fingerprints.")]
_Report = Annotated[Path | None, typer.Option(help="Also write an HTML report to this file.")]
_Rule = Annotated[str, typer.Option(help="How to choose: " + ", ".join(RULES) + ".")]
_Stream = Annotated[
    Path | None,
    typer.Option(
        help="Read the library (a file, a folder or a quoted pattern) once, a block at a time, and keep in this file "
        "how far it came: for libraries larger than memory."
    ),
]
_LibrarySheet = Annotated[str | None, typer.Option(help="Sheet of the library.")]
_Standardise = Annotated[str, typer.Option(help="Forms that are one molecule: " + ", ".join(POLICIES) + ".")]


def suggest(
    measured: _Measured,
    out: _Out,
    library: _Library = None,
    reaction: _Reaction = None,
    q: _Batch = 96,
    maximize: _Maximize = False,
    minimize: _Minimize = False,
    smiles_column: _SmilesColumn = None,
    value_column: _ValueColumn = None,
    library_smiles_column: _LibrarySmilesColumn = None,
    id_column: _IdColumn = None,
    seed: _Seed = None,
    cache: _Cache = None,
    no_cache: _NoCache = False,
    report: _Report = None,
    rule: _Rule = DEFAULT_RULE,
    sheet: Sheet = None,
    library_sheet: _LibrarySheet = None,
    decimal: Decimal = None,
    standardise: _Standardise = "none",
    stream: _Stream = None,
) -> None:
    """Choose the next molecules to measure from a library, or from the products of reactions."""
    better = direction(maximize, minimize)
    whole_number(q, "-q")
    check_rule(rule)
    one_of(standardise, "--standardise", POLICIES)
    _check_one(library, reaction, standardise)
    files: list[Any] = (
        [library] if stream is None else stream_files(library, rule, library_sheet, standardise)
    )
    outputs, inputs = {"--out": out, "--report": report}, [measured, *files, reaction, stream]
    _check_written(outputs, inputs)
    rejected, seed = rejected_path(out, *inputs, out, report), seed_of(stream, seed)
    data, names = read_table(measured, sheet=sheet, decimal=decimal), (smiles_column, value_column)
    if stream is not None:
        asked = Stream(stream, files, rule, q, better, (library_smiles_column, id_column), seed)
        _from_stream(asked, data, names, outputs, rejected)
        return
    learn, choose = streams(as_generator(seed), "model", "choice")
    where = None if no_cache else cache or (default_cache() if reaction is None else products_cache())
    columns = {"smiles_column": library_smiles_column, "id_column": id_column, "sheet": library_sheet}
    offer = _from_library(library, where, columns) if library else _from_reaction(reaction, where, outputs)
    known = _measurements(data, names, offer.fingerprinter)
    rejects = offer.rejects + known.rejects
    write_rejects(rejected, rejects)
    stderr().print(f"{len(known)} measurements and {len(offer.space)} candidates; {len(rejects)} rows listed")
    exclude = _not_again(offer, known, data, standardise, q)
    known, learnt = _learnt(known, offer.space, measured, better, learn)
    chooser = make_rule(rule, offer.space, q, maximize=better)
    model = _model(offer.space, learnt, chooser.paths_for(len(known)), learn)
    with making(offer.space, f"{out} was not written"):
        choice = choose_rows(chooser, model, exclude, choose)
    header, listed = _known_only(model, *_listing(offer, model, choice))
    write_whole(out, csv_text(header, listed))
    _summary(model, header, listed, out, rejected, len(rejects))
    if report is not None:  # after all that must not be lost with it
        write_whole(report, render(model, known, header, listed, better))


def _check_written(outputs: dict[str, Path | None], inputs: list[Path | None]) -> None:
    """Refuse what cannot be written, a report without matplotlib or drawings among it, before the work."""
    check_outputs(outputs, inputs)
    if outputs["--report"] is not None:
        new_figure()
        molecule_svg("C")


def _measurements(
    data: DataTable, names: tuple[str | None, str | None], fingerprinter: SmilesFingerprinter
) -> Measured:
    smiles, value = names
    return load_measured(
        data, smiles_column=smiles, value_column=value, fingerprinter=fingerprinter, bounds=True
    )


def _from_stream(
    asked: Stream,
    data: DataTable,
    names: tuple[str | None, str | None],
    outputs: dict[str, Path | None],
    rejected: Path,
) -> None:
    """As `suggest`, from files that are read once."""
    out, report = Path(str(outputs["--out"])), outputs["--report"]
    known = _measurements(data, names, asked.fingerprinter)
    learn, _ = streams(as_generator(asked.seed), "model", "choice")
    like = FingerprintTable.from_smiles(["C"], asked.fingerprinter)
    kept, learnt = _learnt(known, like, data.path, asked.maximize, learn)
    stderr().print(f"{len(kept)} measurements and {len(asked.files)} files of candidates")
    model = _model(like, learnt, asked.paths_for(len(kept)), learn)
    answer = asked.choose(model, known.canonical)
    rejects = [*known.rejects, *unused_rows(answer)]
    write_rejects(rejected, rejects)
    offer = _Offer(None, rejects, asked.fingerprinter, answer.table)
    listing = _known_only(model, *_listing(offer, model, answer.choice))
    header, listed = with_places(*listing, answer)
    write_whole(out, csv_text(header, listed))
    _summary(model, header, listed, out, rejected, len(rejects))
    if report is not None:
        write_whole(report, render(model, kept, header, listed, asked.maximize))


def _check_one(library: Path | None, reaction: Path | None, standardise: str) -> None:
    if (library is None) == (reaction is None):
        raise InputError("give one of --library FILE and --reaction FILE.")
    if reaction is not None and standardise != "none":
        raise InputError("--standardise is for libraries: leave it out with --reaction.")


class _Offer(NamedTuple):
    """What to choose from, the rows that were left out, how molecules are encoded, and a library's table."""

    space: Any
    rejects: list[Reject]
    fingerprinter: SmilesFingerprinter
    table: FingerprintTable | None = None


def _from_library(library: Path, cache: Path | None, columns: dict[str, Any]) -> _Offer:
    table, rejects = load_library(library, cache=cache, **columns)
    return _Offer(Pool(table, chunk_size=_CHUNK), rejects, table.fingerprinter(), table)


def _from_reaction(reaction: Any, cache: Path | None, outputs: dict[str, Path | None]) -> _Offer:
    space = read_space(reaction, cache=cache)
    check_outputs(outputs, space_files(space))
    return _Offer(space, unused_reagents(space), space.library.fingerprinter)


def _not_again(offer: _Offer, known: Measured, data: DataTable, policy: str, q: int) -> list[int]:
    """What is measured, by row of the library or number of the product."""
    if offer.table is not None:
        return _excluded(offer.table, known, policy, q)
    recall_products(offer.space, data)
    return offer.space.find(sorted(set(known.canonical))).tolist()


def _model(space: Any, learnt: Table, samples: int, generator: torch.Generator) -> Surrogate:
    """As the model of a campaign: bounds are bounds, and standard errors that were told are the noise."""
    return fit_censored(learnt, BeliefSettings(num_samples=samples, kernel=space.parts), generator)


def _excluded(candidates: FingerprintTable, known: Measured, policy: str, q: int) -> list[int]:
    """Library rows that are measured; refuses a library that has too few others."""
    exclude = measured_rows(candidates, known, policy)
    if len(candidates) - len(exclude) < q:
        raise InputError(
            f"-q {q} molecules are asked for but the library has only {len(candidates) - len(exclude)} that are "
            "not measured yet."
        )
    return exclude


def measured_rows(candidates: FingerprintTable, known: Measured, policy: str = "none") -> list[int]:
    """Library rows that hold a measured molecule, by canonical SMILES or by its parent, as the policy says."""
    if not len(known):
        return []
    exact = {int(row) for row in candidates.locate(sorted(set(known.canonical))) if row >= 0}
    matches = same_molecules(candidates, known, policy)
    if matches:
        first = matches[0].describe(f"line {known.lines[matches[0].row]}", _name(candidates, matches[0].of))
        rows = {match.of for match in matches} - exact
        if policy != "none":
            words = f"{len(rows)} more candidates are other forms of measured molecules, and not suggested"
            say("library", [f"{words}: {first}"])
            exact |= rows
        elif rows:
            words = f"{len(rows)} candidates are other forms of measured molecules, and may be suggested"
            say("library", [f"{words}: {first}; --standardise parent takes them as the same"])
    return sorted(exact)


def _name(candidates: FingerprintTable, row: int) -> str:
    names = candidates.ids if candidates.ids is not None else candidates.smiles
    return f"row {int(candidates.source_rows[row])}" if names is None else str(names[row])


def _learnt(
    known: Measured, space: Any, file: Path, better: bool, generator: torch.Generator
) -> tuple[Measured, Table]:
    """The measurements that the model learns from: without values that cannot belong, which are said, as bounds are."""
    if not known.exact:
        raise DataFileError(
            f"{file}: no usable measurement to learn from: each row is unusable, or a bound such as >10."
        )
    bounds = [i for i, side in enumerate(known.censored) if side]
    if bounds:
        sign = ">" if known.censored[bounds[0]] == "above" else "<"
        first = f"{sign}{float(known.values[bounds[0]]):g} in line {known.lines[bounds[0]]}"
        words = f"{len(bounds)} values are bounds ({first}): measured, so not suggested again"
        say(file.name, [f"{words}; the model learns that the truth lies beyond"])
    say(file.name, _decades(known.values))
    table = Table(
        known.counts,
        known.values,
        known.errors,
        torch.tensor([SIDES[side] for side in known.censored], dtype=torch.float64),
        tuple(range(len(known))),
        torch.arange(len(known)),
    )
    settings = BeliefSettings(num_samples=0, kernel=space.parts)
    table, apart = set_apart(table, "value", 1.0 if better else -1.0, settings, generator)
    for one in apart:
        words = (
            f"line {known.lines[one.trial]}: {one.value:g}, where all others lie within {one.low:g} and {one.high:g}: "
            "the model leaves it out, since it predicts the others better so. Correct it if it is a mistake"
        )
        say(file.name, [words])
    return known.part(table.positions.tolist()), table


def _decades(values: torch.Tensor) -> list[str]:
    """A word on concentrations: a model of IC50 over decades knows of nothing but the weakest molecules."""
    low, high = float(values.min()), float(values.max())
    if low <= 0 or high < _DECADES * low:
        return []
    return [
        f"values lie between {low:g} and {high:g}, over decades, and the model takes them as they are: it learns more "
        "from their logarithms, such as pIC50"
    ]


def choose_rows(chooser: Rule, model: Surrogate, exclude: list[int], generator: torch.Generator) -> Choice:
    """The batch in the order in which the rule chose it, with the reasons in the values' units."""
    scaling = (model.offset, model.scale)
    if isinstance(chooser.space, Combinatorial):  # it says itself what it makes
        return chooser.choose(model.posterior, exclude=exclude, generator=generator, scaling=scaling)
    with progress() as bar:
        task = bar.add_task("searching the library", total=len(chooser.space))  # type: ignore[arg-type]
        chooser.progress = lambda done: bar.update(task, completed=done)
        return chooser.choose(model.posterior, exclude=exclude, generator=generator, scaling=scaling)


def _listing(offer: _Offer, model: Surrogate, choice: Choice) -> tuple[list[str], list[list[Any]]]:
    """Header and one line per suggested molecule; without the column of ids where the library has none."""
    rows, candidates = choice.places, offer.table
    if candidates is None:
        return product_rows(offer.space, model, choice)
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


def _known_only(
    model: Surrogate, header: list[str], lines: list[list[Any]]
) -> tuple[list[str], list[list[Any]]]:
    """A listing without standard deviations where all measured values are equal, since nothing tells their scale."""
    if not model.has_scale:
        for line in lines:
            line[header.index("predicted_std")] = None
            line[header.index("why")] = NO_SCALE
    return header, lines


def _summary(
    model: Surrogate, header: list[str], listed: list[list[Any]], out: Path, rejected: Path, unused: int
) -> None:
    if not model.learned:
        stderr().print("note: too few or constant measurements to learn from: the choice is close to random")
    header, listed_ids = narrow(header, listed[:_SHOWN])
    shown = [name for name in header if name not in ("why", "library_row", *PLACES)]
    rows = [[line[header.index(name)] for name in shown] for line in listed_ids]
    names = [name.replace("predicted_", "") for name in shown]
    print_table(f"{len(rows)} of {len(listed)} suggestions", names, rows)
    stdout().print(f"{len(listed)} suggestions in {out}; {unused} rows are listed in {rejected}")
