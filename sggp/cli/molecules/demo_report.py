"""The pictures and the HTML report of `sggp demo`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sggp.bayesopt.screening import RandomScreenings, Screening
from sggp.cli.report import cards, page, paragraph, picture, rows_table
from sggp.molecules import FingerprintTable, molecule_svg
from sggp.plotting import new_figure, plot_best_so_far, plot_calibration, plot_parity, to_png

_DRAWN = 12


def picture_file(done: Screening, random: RandomScreenings, name: str) -> bytes:
    """One PNG with the best-so-far curves, the parity and the calibration plot."""
    figure = new_figure(13.0, 3.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.35, 1, 1])
    _curves(done, random, name, left)
    if len(done.rest):
        _judge(done, name, middle, right)
    return to_png(figure)


def render(done: Screening, random: RandomScreenings, library: FingerprintTable, name: str) -> str:
    """The report as one HTML text."""
    top, found = done.top_found()
    sections = [("What was found", _summary(done, random, name, top, found))]
    figure = new_figure(7.0, 4.0)
    _curves(done, random, name, figure.subplots())
    sections.append(("Best value so far", picture(figure, f"best {name} by measurements, ours and random")))
    if len(done.rest):
        figure = new_figure(9.0, 3.9)
        left, right = figure.subplots(1, 2)
        _judge(done, name, left, right)
        text = (
            f"The last model on the {len(done.rest)} molecules that were never measured. Left: predicted against true "
            "values. Right: the share of true values inside the model's intervals; above the diagonal the model is "
            "too cautious, below it too sure of itself."
        )
        sections.append(("How good the model is", paragraph(text) + picture(figure, "parity, calibration")))
    best = [(row, number, str(_smiles(library, row))) for row, number in done.best(_DRAWN)]
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
    return page("A search through a library of molecules", sections)


def _summary(done: Screening, random: RandomScreenings, name: str, top: int, found: int) -> str:
    ends = random.curves[:, -1]
    size, batch = len(done.values), len(done.steps[-1].rows)
    first = (
        f"A library of {size} molecules from the NCI set that RDKit carries. {len(done.steps[0].rows)} molecules "
        f"drawn at random were known; {len(done.steps) - 1} batches of {batch} were then chosen to maximise {name}. "
        "Each round a Gaussian process with the min-max Tanimoto kernel on Morgan count fingerprints was fitted to "
        "the measured molecules, and each slot of the batch took the best molecule of its own posterior sample."
    )
    second = (
        f"Best {name}: {done.curve[-1]:.3f}; the best of the whole library is {float(done.values.max()):.3f}. Random "
        f"choice with the same budget: {ends.mean():.3f} ± {ends.std():.3f} over {len(ends)} repeats. Of the library's "
        f"{top} best molecules {found} were found; random choice finds {random.top_found.mean():.1f} on average."
    )
    return paragraph(first) + paragraph(second)


def _curves(done: Screening, random: RandomScreenings, name: str, axes: Any) -> None:
    plot_best_so_far(
        list(done.curve),
        measurements=list(done.counts),
        random=random.curves,
        value_name=f"best {name} so far",
        axes=axes,
    )
    axes.axhline(float(done.values.max()), color="black", linewidth=0.8, linestyle=":")


def _judge(done: Screening, name: str, left: Any, right: Any) -> None:
    truth = done.values[done.rest].numpy()
    mean, std = done.mean.numpy(), np.maximum(done.std.numpy(), 1e-12)
    plot_parity(truth, mean, axes=left, name=name)
    plot_calibration(truth, mean, std, axes=right)


def _smiles(library: FingerprintTable, row: int) -> str:
    return "" if library.smiles is None else str(library.smiles[row])


def _when(number: int) -> str:
    return "known before" if number == 0 else f"round {number}"
