"""A space of settings: numbers between bounds, whole numbers, ordered levels and categories."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths
from sggp.bayesopt.spaces.columns import (
    Categorical,
    Cell,
    Column,
    Continuous,
    Integer,
    as_column,
    column_from,
)
from sggp.bayesopt.spaces.constraints import LinearConstraint
from sggp.bayesopt.spaces.region import Region
from sggp.bayesopt.spaces.search import Known, maximise_box
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import as_numbers, whole_number
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.typing import Dtype

_TOLERANCE = 1e-6  # of a constraint's size, by which a point that a user gives may miss it
_BLOCKS = 64  # of the Sobol sequence that are searched for start points


class Box:
    """All combinations of the values of some columns, perhaps within linear constraints.

    Args:
        columns: (d, 2) bounds, one row ``[low, high]`` per column; or columns by name, each a pair of bounds, a list
            of categories (texts), or one of `Continuous`, `Integer`, `Ordinal`, `Categorical`; or a list of those.
        names: of the columns, where `columns` has none; None: x0, x1, ...
        units: of the columns by name, where the columns do not say.
        constraints: `LinearConstraint` on continuous columns (not on a log scale) and integer ones.

    A model sees coordinates between 0 and 1: numbers by their place between the bounds, levels by their place in the
    order, categories as codes (`Column.encode`). A user gives and gets points in the columns' own terms, as a mapping
    or in order.

    Raises:
        ShapeError: bounds that are not (d, 2). DtypeError: what is no column.
        InputError: a bound is no finite number, or a lower bound is not below its upper bound; names that are not
            all different; a constraint of other columns; constraints that leave nothing, or no interior.

    Example:
        >>> Box([[0.0, 1.0], [-5.0, 10.0]]).dimension
        2
        >>> Box({"temperature": (20, 120), "base": ["K2CO3", "Et3N", "DBU"], "equivalents": Integer(1, 5)}).names
        ['temperature', 'base', 'equivalents']
    """

    def __init__(
        self,
        columns: Any,
        *,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        constraints: Sequence[LinearConstraint] = (),
    ) -> None:
        self._named = isinstance(columns, Mapping) or names is not None or bool(units)
        self.columns = _columns(columns, names)
        if units is not None and not isinstance(units, Mapping):
            raise DtypeError(f"units must give a text by column name, got {type(units).__name__}.")
        for name, unit in (units or {}).items():
            column = self.columns[_known(name, self.columns)]
            self.columns[name] = column.in_unit(str(unit))
        self.constraints = _checked(constraints, self.columns)
        self._linear = all(isinstance(c, Continuous) and not c.log for c in self.columns.values())
        ends = [[c.low, c.high] for c in self.columns.values() if isinstance(c, Continuous)]
        bounds = torch.tensor(ends, dtype=torch.float64) if self._linear else None
        self.region = Region(list(self.columns.values()), self.names, self.constraints, bounds)

    @classmethod
    def from_description(cls, description: Any) -> Box:
        """The box that `describe` described, also after JSON.

        Raises:
            InputError: it describes no box.
        """
        if not isinstance(description, Mapping) or description.get("kind") != "box":
            raise InputError(f"expected the description of a box, got {description!r:.80}.")
        if "bounds" in description:
            return cls(description["bounds"])
        try:
            columns = {told["name"]: told["column"] for told in description["columns"]}
            constraints = [LinearConstraint(**told) for told in description.get("constraints", ())]
        except (KeyError, TypeError) as error:
            raise InputError(f"the description of the box is damaged: {error!r}.") from error
        return cls({name: column_from(told, name) for name, told in columns.items()}, constraints=constraints)

    def describe(self) -> dict[str, Any]:
        """Everything about the box, as JSON; `from_description` makes it again."""
        if self._linear and not self._named and not self.constraints:
            return {"kind": "box", "bounds": self.bounds.tolist()}
        columns = [{"name": name, "column": column.describe()} for name, column in self.columns.items()]
        told: dict[str, Any] = {"kind": "box", "columns": columns}
        if self.constraints:
            told["constraints"] = [constraint.describe() for constraint in self.constraints]
        return told

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    @property
    def units(self) -> dict[str, str]:
        """What each column is measured in, "" where nothing is said."""
        return {name: column.unit for name, column in self.columns.items()}

    @property
    def dimension(self) -> int:
        """Number of coordinates D that a model sees."""
        return self.region.dimension

    @property
    def bounds(self) -> Tensor:
        """(D, 2) float64 ends of the coordinates in which `maximise` works: the columns' own where all are continuous
        and linear, else 0 and 1."""
        return self.region.bounds

    @property
    def low(self) -> Tensor:
        """(D,) float64 lower ends of the coordinates."""
        return self.region.low

    @property
    def width(self) -> Tensor:
        """(D,) float64 edge lengths."""
        return self.region.width

    @property
    def capacity(self) -> float:
        return self.region.capacity

    @property
    def num_initial(self) -> int:
        return 2 * (len(self.columns) + 1)

    @cached_property
    def scaled(self) -> Box:
        """The same box, in the coordinates of the model: the unit cube."""
        if not self._linear:
            return self
        unit = copy.copy(self)
        unit.region = Region(list(self.columns.values()), self.names, self.constraints)
        return unit

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The coordinates that are the codes of one category each."""
        pairs = zip(self.columns.values(), self.region.places, strict=True)
        return tuple(tuple(range(p.start, p.stop)) for c, p in pairs if isinstance(c, Categorical))

    def sample(self, count: int, *, generator: torch.Generator, dtype: Dtype = torch.float64) -> Tensor:
        """(count, D) points drawn from the box, uniformly where there are no narrow constraints."""
        count = whole_number(count, "count", least=0)
        return self.region.sample(count, generator=generator, dtype=dtype)

    def clip(self, points: Tensor) -> Tensor:
        """(..., D) points moved between the bounds."""
        return self.region.clip(points)

    def to_unit(self, points: Tensor) -> Tensor:
        """(..., D) points of the box in the coordinates of the unit cube, float64."""
        return (self._coordinates(points) - self.low) / self.width

    def from_unit(self, points: Tensor) -> Tensor:
        """(..., D) points of the unit cube in the coordinates of the box, float64."""
        return self.clip(self.low + self._coordinates(points) * self.width)

    def _coordinates(self, points: Any) -> Tensor:
        expected = f"(..., {self.dimension}) numbers"
        checked = as_numbers(points, "points", expected)
        if checked.shape[-1:] != (self.dimension,):
            raise ShapeError(f"points must be {expected}, got shape {tuple(checked.shape)}.")
        return checked

    def check(self, x: Any) -> dict[str, Cell]:
        """A point that a user gives, by column, checked.

        Args:
            x: values by column name, or in the order of the columns.

        Raises:
            ShapeError: another number of values. DtypeError: neither a mapping nor a sequence.
            InputError: a column that the box has not, or lacks; a value outside its column or the constraints.
        """
        given = x.to_dict() if hasattr(x, "to_dict") else x
        if isinstance(given, Mapping):
            for name in given:
                _known(name, self.columns)
            lacking = [name for name in self.columns if name not in given]
            if lacking:
                raise InputError(f"the point has no value for column {', '.join(map(repr, lacking))}.")
            cells = [given[name] for name in self.columns]
        else:
            cells = _cells(given, self.names)
        point = {
            name: column.cell(cell, name)
            for (name, column), cell in zip(self.columns.items(), cells, strict=True)
        }
        for constraint in self.constraints:
            ends = (constraint.at_most, constraint.at_least, constraint.equals)
            size = max([1.0, *(abs(end) for end in ends if end is not None)])
            if constraint.misfit(point) > _TOLERANCE * size:
                raise InputError(
                    f"the point does not fulfil {constraint}: the sum is {constraint.value(point):.9g}."
                )
        return point

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """The next points of the Sobol sequence scrambled by `seed` that repeat no trial and fulfil the constraints."""
        engine = torch.quasirandom.SobolEngine(len(self.columns), scramble=True, seed=seed % 2**31)
        engine.fast_forward(len(trials))
        region, known = self.scaled.region, self.taken(trials)
        found = known[:0]
        for block in range(2 * _BLOCKS):
            if block < _BLOCKS:
                points = region.from_columns(engine.draw(count, dtype=torch.float64))
                points = points[region.feasible(points)]
            else:  # constraints leave little, or few combinations are left
                points = region.sample(count, generator=generator) if region.listed is None else region.listed
                points = points[torch.randperm(len(points), generator=generator)]
            found = torch.cat([found, Known(region, torch.cat([known, found])).fresh(points)])
            if len(found) >= count:
                return self.places(found[:count])
        raise InputError(f"only {len(found)} of {count} new points of the box were found.")

    def place(self, x: Any) -> Place:
        """A point of the box: values by column name, or in the order of the columns."""
        return Place(x=tuple(self.check(x).values()))

    def places(self, choice: Tensor) -> list[Place]:
        """Points of the unit cube, in the columns' own terms."""
        checked = as_numbers(choice, "points", f"(k, {self.dimension}) numbers").detach().cpu()
        cells = [
            c.decode(checked[:, p]) for c, p in zip(self.columns.values(), self.region.places, strict=True)
        ]
        return [Place(x=row) for row in zip(*cells, strict=True)]

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, D) points of the unit cube, float64."""
        if not trials:
            return torch.empty(0, self.dimension, dtype=torch.float64)
        cells = zip(*(trial.x or () for trial in trials), strict=True)
        parts = [
            column.encode(column_cells)
            for column, column_cells in zip(self.columns.values(), cells, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def taken(self, trials: Sequence[Trial]) -> Tensor:
        """(k, D) the different points of trials, in the coordinates of the model."""
        return torch.unique(self.features(trials), dim=0)

    def cells(self, trial: Trial) -> list[Any]:
        return list(trial.x or ())

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """`maximise_box` near the points that the posterior was conditioned on, none that is excluded or pending."""
        return maximise_box(
            paths,
            self.without(look.exclude, "exclude").without(look.pending, "pending"),
            generator=look.generator,
            search=look.search,
            maximize=look.maximize,
            near=_measured(posterior),
            lengthscale=_lengthscale(getattr(posterior, "kernel", None), self.dimension),
        )

    def without(self, points: Any, name: str = "points") -> Box:
        """The same box for `maximise`, which proposes none of these points (k, D), in the coordinates of `bounds`.

        Raises:
            InputError: no such points; the message calls them `name`.
        """
        listed = points if isinstance(points, Tensor) else list(points)
        if not len(listed):
            return self
        expected = f"points (k, {self.dimension}) of the box, not pool rows"
        checked = as_numbers(listed, name, expected).detach().cpu()
        if checked.ndim != 2 or checked.shape[1] != self.dimension:
            raise InputError(f"{name} must hold {expected}; got shape {tuple(checked.shape)}.")
        out = copy.copy(self)
        out.region = self.region.without(checked)
        return out


def _columns(given: Any, names: Sequence[str] | None) -> dict[str, Column]:
    """Columns by name, from whatever a user gives."""
    if isinstance(given, Mapping):
        if names is not None:
            raise InputError("the columns have names already: leave names= out.")
        if not given:
            raise ShapeError("a box needs at least one column.")
        for name in given:
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"the name of a column is a text, got {name!r:.60}.")
        return {name: as_column(column, name) for name, column in given.items()}
    listed = isinstance(given, list | tuple) and bool(given) and any(isinstance(c, Column) for c in given)
    columns: list[Any] = list(given) if listed else _bounds(given).tolist()
    called = [f"x{i}" for i in range(len(columns))] if names is None else [str(name) for name in names]
    if len(called) != len(columns):
        raise ShapeError(f"{len(called)} names are given for {len(columns)} columns.")
    if len(set(called)) < len(called):
        raise InputError(f"the names of columns must all be different, got {called}.")
    return {name: as_column(column, name) for name, column in zip(called, columns, strict=True)}


def _bounds(given: Any) -> Tensor:
    expected = "(d, 2), one row [low, high] of numbers per dimension, such as [[0.0, 1.0], [-5.0, 10.0]]"
    table = as_numbers(given, "bounds", expected).detach().cpu()
    if table.ndim != 2 or table.shape[1] != 2 or table.shape[0] == 0:
        raise ShapeError(f"bounds must be {expected}; got shape {tuple(table.shape)}.")
    if not bool(torch.isfinite(table).all()):
        raise InputError("bounds must be finite: a search needs a lower and an upper end per dimension.")
    bad = (table[:, 0] >= table[:, 1]).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"lower bound not below upper in dimension(s) {bad}: {table[bad].tolist()}.")
    if not bool(torch.isfinite(table[:, 1] - table[:, 0]).all()):
        raise InputError("upper less lower bound does not fit float64: take another unit.")
    return table


def _known(name: Any, columns: Mapping[str, Column]) -> str:
    if name not in columns:
        raise InputError(f"the box has no column {name!r}; its columns are {', '.join(map(repr, columns))}.")
    return str(name)


def _checked(constraints: Any, columns: Mapping[str, Column]) -> tuple[LinearConstraint, ...]:
    """Constraints of columns for which a sum means something."""
    given = [constraints] if isinstance(constraints, LinearConstraint) else list(constraints)
    for constraint in given:
        if not isinstance(constraint, LinearConstraint):
            raise DtypeError(
                f"constraints must be LinearConstraint objects, got {type(constraint).__name__}."
            )
        for name in constraint.coefficients:
            column = columns[_known(name, columns)]
            if not isinstance(column, Continuous | Integer) or getattr(column, "log", False):
                kind = "on a log scale" if isinstance(column, Continuous) else column.kind
                raise InputError(
                    f"{constraint}: column {name!r} is {kind}, and sums are of continuous (linear) and integer columns."
                )
            if constraint.equals is not None and isinstance(column, Integer):
                raise InputError(
                    f"{constraint}: column {name!r} is integer, and equals is for continuous columns: use at_least and "
                    "at_most."
                )
    return tuple(given)


def _cells(given: Any, names: Sequence[str]) -> list[Any]:
    """The values of a point in order."""
    if isinstance(given, str | bytes | set) or not hasattr(given, "__iter__"):
        raise DtypeError(f"a point of this box holds values of {', '.join(names)}; got {given!r:.60}.")
    cells = given.tolist() if hasattr(given, "tolist") else list(given)
    cells = cells if isinstance(cells, list) else [cells]
    if len(cells) != len(names):
        raise ShapeError(
            f"a point of this box has {len(names)} values, of {', '.join(names)}; got {len(cells)}."
        )
    return cells


def _measured(posterior: Any) -> tuple[Tensor, Tensor] | None:
    x, y = getattr(posterior, "x", None), getattr(posterior, "y", None)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.shape[0] != y.shape[0] or not len(x):
        return None
    return x, y


def _lengthscale(kernel: Any, dimension: int) -> Tensor | None:
    """The kernel's length scales where it has one set of them, else None."""
    while kernel is not None:
        found = getattr(kernel, "lengthscale", None)
        if isinstance(found, Tensor) and found.numel() in (1, dimension):
            return found.detach().flatten()
        kernel = getattr(kernel, "base_kernel", None)
    return None
