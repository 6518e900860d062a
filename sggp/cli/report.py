"""Reports: one HTML file that needs nothing else, pictures included."""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sggp.cli.console import shown
from sggp.molecules.files import visible
from sggp.plotting import new_figure, plot_calibration, plot_parity, to_png

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em
} h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em } img { max-width: 100% } table {
border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto } td, th { padding: 3px 8px;
text-align: left; min-width: 4em } td:first-child, th:first-child { min-width: 6.2em } th {
border-bottom: 2px solid #999 } td { border-bottom: 1px solid #ddd; overflow-wrap: anywhere } .cards {
display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 1em } .card { width: 240px;
border: 1px solid #ddd; border-radius: 6px; padding: 8px; font-size: 12px }
.card p { margin: 4px 0; overflow-wrap: anywhere }
.note { color: #555 }
.parts { display: flex } .parts figure { flex: 1; margin: 0; min-width: 0; text-align: center }
.parts figcaption { overflow-wrap: anywhere }
@media print { table { display: table } img, tr { break-inside: avoid } }
"""

_BOUND = "#b3432b"
_DRAWN = 30  # characters of a name in a drawing
Part = tuple[str, str]
"""A small drawing (SVG text, or "" for none) and its name."""


def _escaped(text: str, quote: bool = True) -> str:
    """Text that is neither markup nor, by its control characters, anything else than it looks like."""
    return html.escape(visible(text), quote)


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole HTML document of headed sections; the bodies are HTML already."""
    body = "".join(f"<h2>{_escaped(head)}</h2>\n{text}\n" for head, text in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{_escaped(title)}</h1>\n{body}</body></html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{_escaped(text)}</p>"


def picture(figure: Any, alt: str) -> str:
    """A matplotlib figure as an inline image; its texts are drawn as they are, `$` of a price as well."""
    _without_formulas(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box; tables show every character
        data = base64.b64encode(to_png(figure)).decode()
    return f'<img alt="{_escaped(alt, quote=True)}" src="data:image/png;base64,{data}">'


def judged(predicted: tuple[Any, Any, Any, Any], name: str, alt: str) -> str:
    """Parity and calibration of predictions, as HTML: bounds are drawn, count in no score, and are told.

    Args:
        predicted: values as told (n,), predicted means and standard deviations (n,), and sides (n,): 1 where the truth
            lies above the value, -1 below, 0 where it was measured.
        name: what the values are. alt: words for who does not see the picture.
    """
    value, mean, std, side = (np.asarray(part, dtype=float) for part in predicted)
    exact, bounds = side == 0, int((side != 0).sum())
    if not exact.any():
        return paragraph(f"All {bounds} values are bounds: there is none to compare a prediction with.")
    figure = new_figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    plot_parity(value[exact], mean[exact], std[exact], axes=left, name=brief(name))
    for sign, arrow in ((1, ">"), (-1, "<")):
        left.plot(value[side == sign], mean[side == sign], arrow, color=_BOUND, markersize=5)
    plot_calibration(value[exact], mean[exact], std[exact], axes=right)
    said = (
        f"{bounds} of the {len(side)} values are bounds, the arrows, which point to where the truth lies: neither R² "
        "nor the coverage counts them."
    )
    return picture(figure, alt) + paragraph(said) * bool(bounds)


def brief(name: str) -> str:
    """A name with its middle left out where it is too long for a drawing."""
    return name if len(name) <= _DRAWN else f"{name[: _DRAWN // 2]}…{name[1 - _DRAWN // 2 :]}"


def _without_formulas(figure: Any) -> None:
    """No text of a figure is a formula to matplotlib, but for the ticks of logarithmic axes, which it writes itself."""
    lines = [line for axes in figure.axes for line in (axes.xaxis, axes.yaxis) if line.get_scale() == "log"]
    kept = {id(text) for line in lines for text in line.get_ticklabels(which="both")}
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        if id(text) not in kept:
            text.set_parse_math(False)


def rows_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of plain text cells."""
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in header)
    lines = ("".join(f"<td>{_escaped(shown(cell))}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def facts(items: Iterable[tuple[str, Any]]) -> str:
    """A table of two columns: what, and its value as plain text."""
    lines = (
        f'<tr><th scope="row">{_escaped(name)}</th><td>{_escaped(shown(value))}</td></tr>'
        for name, value in items
    )
    return f"<table>{''.join(lines)}</table>"


def cards(items: Iterable[tuple[str, Sequence[str]] | tuple[str, Sequence[str], Sequence[Part]]]) -> str:
    """Drawings (SVG text, or "" for none) with lines of text below each, the last of which names what is drawn.

    A third entry of an item is what it is made of, drawn small between the drawing and the text.
    """
    out = []
    for svg, lines, *parts in items:
        text = "".join(f"<p>{_escaped(line)}</p>" for line in lines)
        made_of = "".join(
            f"<figure>{_drawing(small, name)}<figcaption>{_escaped(name)}</figcaption></figure>"
            for small, name in (parts[0] if parts else ())
        )
        row = f'<div class="parts">{made_of}</div>' if made_of else ""
        out.append(f'<div class="card">{_drawing(svg, lines[-1])}{row}{text}</div>')
    return f'<div class="cards">{"".join(out)}</div>'


def _drawing(svg: str, name: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    alt = _escaped(f"structure of {name}", quote=True)
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">' if svg else ""
