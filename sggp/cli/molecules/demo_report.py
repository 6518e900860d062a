"""The pictures and the HTML report of `sggp demo`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sggp.cli.molecules.demo_searches import Searches, comparison
from sggp.cli.report import cards, page, paragraph, picture, rows_table
from sggp.molecules import FingerprintTable, molecule_svg
from sggp.plotting import new_figure, plot_best_so_far, plot_calibration, plot_parity, to_png

_DRAWN = 12


def picture_file(done: Searches) -> bytes:
    """One PNG with the best molecules found by each rule, the parity and the calibration plot."""
    figure = new_figure(13.0, 3.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.35, 1, 1])
    _curves(done, left)
    if len(done.main.rest):
        _judge(done, middle, right)
    return to_png(figure)


def render(done: Searches) -> str:
    """The report as one HTML text."""
    search, name = done.main, done.objective
    sections = [("What was done", _summary(done)), ("The rules side by side", rows_table(*comparison(done)))]
    figure = new_figure(7.0, 4.0)
    _curves(done, figure.subplots())
    alt = "how many of the library's best molecules were found, against measurements, for each rule"
    sections.append(("Best molecules found", picture(figure, alt)))
    if len(search.rest):
        figure = new_figure(9.0, 3.9)
        left, right = figure.subplots(1, 2)
        _judge(done, left, right)
        text = (
            f"The last model on the {len(search.rest)} molecules that were never measured. Left: predicted against "
            "true values. Right: the share of true values inside the model's intervals; above the diagonal the model "
            "is too cautious, below it too sure of itself."
        )
        sections.append(("How good the model is", paragraph(text) + picture(figure, "parity, calibration")))
    best = [(row, number, str(_smiles(done.library, row))) for row, number in search.best(_DRAWN)]
    drawn = [
        (molecule_svg(smiles), [f"{name} {float(done.values[row]):.3f}, {_when(number)}", smiles])
        for row, number, smiles in best
    ]
    sections.append(("The best molecules", cards(drawn)))
    lines = [
        [rank, float(done.values[row]), _when(number), smiles]
        for rank, (row, number, smiles) in enumerate(best, start=1)
    ]
    sections.append(("The same as a table", rows_table(["rank", name, "found", "smiles"], lines)))
    return page("Search of a library of molecules", sections)


def _summary(done: Searches) -> str:
    search = done.main
    said = ", ".join(f"{count} {reason}" for reason, count in done.left_out.items())
    first = (
        f"A library of {len(done.library)} molecules of the NCI set that RDKit carries; left out: {said}. "
        f"{len(search.steps[0].rows)} molecules drawn at random were known; {len(search.steps) - 1} batches of "
        f"{len(search.steps[-1].rows)} were then chosen to maximise {done.objective}. Each round a Gaussian process on "
        f"fingerprints was fitted to the measured molecules, and the rule chose. {len(done.chance)} searches of each "
        "rule, from the same known molecules; the molecules and the model shown are of the first search of the default."
    )
    if done.objective == "cns":
        first += (
            " cns is the geometric mean of drug-likeness (QED) and of the desirability of log P, weight, polar surface "
            "and hydrogen bond donors for a drug that must reach the brain (CNS MPO without the terms that need a pKa)."
        )
    return paragraph(first)


def _curves(done: Searches, axes: Any) -> None:
    chance = np.concatenate([random.found_by_round for random in done.chance])
    plot_best_so_far(
        {rule: done.found(rule) for rule in done.by_rule},
        measurements=list(done.main.counts),
        random=chance,
        value_name=f"of the {done.main.top_found()[0]} best molecules found",
        axes=axes,
    )


def _judge(done: Searches, left: Any, right: Any) -> None:
    search = done.main
    truth = done.values[search.rest].numpy()
    mean, std = search.mean.numpy(), np.maximum(search.std.numpy(), 1e-12)
    plot_parity(truth, mean, axes=left, name=done.objective)
    plot_calibration(truth, mean, std, axes=right)


def _smiles(library: FingerprintTable, row: int) -> str:
    return "" if library.smiles is None else str(library.smiles[row])


def _when(number: int) -> str:
    return "known before" if number == 0 else f"round {number}"
