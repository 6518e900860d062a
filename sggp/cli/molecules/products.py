"""Spaces of products on the command line: read, said, and made with progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sggp.bayesopt import Combinatorial, Surrogate
from sggp.bayesopt.rules import Choice
from sggp.bayesopt.trials import Place
from sggp.cli.console import stderr
from sggp.cli.molecules.tables import Reject, default_cache, usable_cache
from sggp.cli.report import Part
from sggp.molecules import SmilesFingerprinter, molecule_svg
from sggp.molecules.files import DataTable

_SMALL = (110, 90)
_SHOWN = 3
_EVERY = 10.0  # seconds between two lines where there is no terminal


def read_space(
    file: Path, *, cache: Path | None = None, fingerprint: dict[str, Any] | None = None, whole: bool = True
) -> Combinatorial:
    """The products of a reaction file, what is left out of its reagents being said.

    Args:
        file: as `read_reactions` takes it.
        cache: folder where products are kept for the next time.
        fingerprint: settings, None for those of a new campaign.
        whole: say everything, and not only how many combinations there are.

    Raises:
        DataFileError, InputError: as `Combinatorial`.
    """
    own = {} if fingerprint is None else {"fingerprinter": SmilesFingerprinter(**fingerprint)}
    space = Combinatorial(file, cache=usable_cache(cache), **own)
    for number, reaction in enumerate(space.library.reactions):
        for line in reaction.describe() if whole else reaction.describe()[:1]:
            stderr().print(line)
        lost = space.library.unproductive[number] if whole else []
        if lost:
            stderr().print(f"  {len(lost):,} of the reagents gave no product when tried")
        for one in lost[:_SHOWN]:
            stderr().print(f"    {one.smiles} ({one.id}): {one.reason}")
    return space


def products_cache() -> Path:
    """Where products are kept between calls."""
    return default_cache().with_name("products")


def space_files(space: Combinatorial) -> list[Path]:
    """The files of reagents, which no output may replace."""
    return [
        Path(own.source) for reaction in space.library.reactions for own in reaction.components if own.source
    ]


def unused_reagents(space: Combinatorial) -> list[Reject]:
    """Every reagent that gives no product, with the reason."""
    out = []
    for reaction, more in zip(space.library.reactions, space.library.unproductive, strict=True):
        for one in (*reaction.refused, *more):
            reason = f"component {one.component} of {reaction.name}: {one.reason}"
            content = f"{one.smiles} {one.id}".rstrip()
            out.append(
                Reject(Path(one.source).name or reaction.name, one.line or one.row + 1, reason, content)
            )
    return out


def named_places(table: DataTable) -> list[Place | None] | None:
    """The reagents that the rows of a table name in columns reagent_1, reagent_2 ...; None without such columns."""
    names = [name for number in range(1, 5) if (name := f"reagent_{number}") in table.columns]
    if not names:
        return None
    out: list[Place | None] = []
    for position in range(len(table)):
        ids = [cell for name in names if (cell := table.columns[name][position].strip())]
        first = table.columns["reaction"][position].strip() if "reaction" in table.columns else ""
        out.append(Place(x=(*([first] if first else []), *ids)) if ids else None)
    return out


def recall_products(space: Any, table: DataTable) -> None:
    """Let measured products of a `Combinatorial` be known by their reagents, where a table names these."""
    if isinstance(space, Combinatorial):
        space.recall([place for place in named_places(table) or [] if place is not None])


def is_reagent_smiles(column: str) -> bool:
    """Whether a column of a batch of products repeats, as SMILES, a reagent whose id stands beside it."""
    return column.startswith("reagent_") and column.endswith("_smiles")


def narrow(header: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """A listing for the screen: reagents by their ids alone."""
    kept = [position for position, name in enumerate(header) if not is_reagent_smiles(name)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def product_rows(space: Combinatorial, model: Surrogate, choice: Choice) -> tuple[list[str], list[list[Any]]]:
    """Header and one line per suggested product, with its reagents, as `sggp suggest` writes them."""
    mean, std = model.predict(space.rows(choice.places))
    lines = [
        [rank, *space.cells(place), m, s, why]
        for rank, (place, m, s, why) in enumerate(
            zip(space.places(choice.places), mean.tolist(), std.tolist(), choice.why, strict=True), start=1
        )
    ]
    return ["rank", *space.names, "predicted_mean", "predicted_std", "why"], lines


def small_drawing(smiles: str, name: str) -> Part:
    """A reagent for the row of those that a product is made of."""
    return (molecule_svg(smiles, size=_SMALL) if smiles else "", name)


@contextmanager
def making(space: Any, stored: str) -> Iterator[None]:
    """Show on stderr how many products are made, and say what an interruption leaves, and what a search did.

    Args:
        space: any other space than one of products shows nothing.
        stored: what is stored if it is interrupted, in words.
    """
    if not isinstance(space, Combinatorial):
        yield
        return
    library, console = space.library, stderr()
    before, last = library.made, space.last_search
    try:
        with console.status("looking for products") as bar:
            library.progress = _Said(space, console, bar)
            yield
    except KeyboardInterrupt:
        kept = "kept for the next time" if library.cached else "lost, since none are kept"
        console.print(f"stopped: {library.made - before:,} products were made and are {kept}; {stored}")
        raise
    finally:
        library.progress = None
    if space.last_search is not None and space.last_search is not last:
        console.print(f"search: {space.last_search}")
        for reason, count in library.missing.most_common(3):
            console.print(f"  {count:,} combinations gave no product: {reason}")


class _Said:
    """Products made so far, how many a second, and how long a search takes at most."""

    def __init__(self, space: Combinatorial, console: Any, bar: Any) -> None:
        self.space, self.console, self.bar = space, console, bar
        self.before, self.start = space.library.made, time.monotonic()
        self.said = self.start

    def __call__(self, done: int, total: int) -> None:
        now, made = time.monotonic(), self.space.library.made - self.before
        rate = made / max(now - self.start, 1e-3)
        left = max(self.space.effort.products - made, total - done) / max(rate, 1e-3)
        text = f"{made:,} products made, {rate:,.0f} per second, about {left:,.0f} s left at most"
        if self.console.is_terminal:
            self.bar.update(text)
        elif now - self.said >= _EVERY:
            self.console.print(text)
            self.said = now
