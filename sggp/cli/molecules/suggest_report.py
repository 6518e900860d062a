"""The HTML report of `sggp suggest`."""

from __future__ import annotations

from typing import Any

from sggp.bayesopt import Surrogate
from sggp.cli.molecules.products import is_reagent_smiles, narrow, small_drawing
from sggp.cli.molecules.tables import Measured
from sggp.cli.report import Part, cards, judged, page, paragraph, rows_table
from sggp.molecules import molecule_svg

_DRAWN = 24
_LARGEST = 5000


def render(
    model: Surrogate, known: Measured, header: list[str], listed: list[list[Any]], maximize: bool
) -> str:
    """The report as one HTML text."""
    word = "maximise" if maximize else "minimise"
    asked = (
        f"{len(listed)} molecules to measure next, to {word} the value, from {len(known)} measurements. "
        + f"Noise of one measurement, as learnt: {model.noise_std:.3g}." * model.learned
    )
    sections = [("What was asked", paragraph(asked))]
    if model.learned and known.exact and len(known) <= _LARGEST:
        values, side = model.told_values
        shown = judged((values, *model.leave_one_out(), side), "value", "parity, calibration")
        text = "Each measurement predicted from all the others; left: values, right: coverage of intervals."
        sections.append(("How good the model is", paragraph(text) + shown))
    smiles, mean_at = header.index("smiles"), header.index("predicted_mean")
    drawn: list[tuple[str, list[str], list[Part]]] = []
    for row in listed[:_DRAWN]:
        spread = "" if row[mean_at + 1] is None else f" ± {row[mean_at + 1]:.2g}"
        said = f"rank {row[0]}: {row[mean_at]:.3g}{spread}"
        drawn.append((molecule_svg(row[smiles]), [said, row[smiles]], _reagents(header, row)))
    sections.append((f"The first {len(drawn)} suggestions", cards(drawn)))
    sections.append(("All suggestions", rows_table(*narrow(header, listed))))
    return page("Suggested molecules", sections)


def _reagents(header: list[str], row: list[Any]) -> list[Part]:
    """The reagents of a product, drawn."""
    columns = [place for place, name in enumerate(header) if is_reagent_smiles(name)]
    return [small_drawing(row[place], row[place - 1]) for place in columns if row[place]]
