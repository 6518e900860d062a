"""Columns and constraints of a box: what users give, see and get back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sggp.bayesopt import Box, Categorical, Continuous, Integer, LinearConstraint, Ordinal
from sggp.bayesopt.trials import Place
from sggp.errors import InputError, SggpError, ShapeError

pd = pytest.importorskip("pandas")

REACTION = {
    "temperature": Continuous(20, 120, unit="°C"),
    "catalyst": Continuous(1e-4, 1e-1, log=True, unit="mol/L"),
    "base": ["K2CO3", "Et3N", "DBU"],
    "inert": [False, True],
    "equivalents": Integer(1, 5),
    "grade": Ordinal([0.1, 0.5, 2.0]),
}
POINT = {
    "temperature": 45.0,
    "catalyst": 1e-2,
    "base": "Et3N",
    "inert": True,
    "equivalents": 4,
    "grade": 2.0,
}


def test_coordinates_of_every_kind_of_column():
    box = Box(REACTION)
    (row,) = box.features([Place(x=tuple(POINT.values()))])
    torch.testing.assert_close(
        row, torch.tensor([0.25, 2 / 3, 0, 1, 0, 1, 0.75, 1.0], dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert box.blocks == ((2, 3, 4), (5,))
    (place,) = box.places(row[None])
    assert dict(zip(box.names, place.x, strict=True)) == pytest.approx(POINT)
    assert [type(cell) for cell in place.x] == [float, float, str, bool, int, float]


def test_a_point_in_any_form_is_the_same_place():
    box = Box(REACTION)
    forms = (
        POINT,
        dict(reversed(POINT.items())),
        tuple(POINT.values()),
        pd.Series(POINT),
        np.array(list(POINT.values()), dtype=object),
        {**POINT, "temperature": np.float32(45), "equivalents": 4.0, "grade": torch.tensor(2.0)},
    )
    assert {box.place(form).x for form in forms} == {tuple(POINT.values())}
    assert json.loads(json.dumps(box.place(POINT).x)) == list(POINT.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 150}, r"'temperature' is 150 °C, outside its bounds 20 to 120 °C"),
        ({"temperature": "warm"}, r"'temperature' must be a finite number"),
        ({"base": "et3n"}, r"'base' holds one of 'K2CO3', 'Et3N', 'DBU'; got 'et3n'; did you mean 'Et3N'"),
        ({"base": 1}, r"'base' holds one of .* got 1\."),
        ({"inert": 1}, r"'inert' holds one of False, True; got 1\."),
        ({"equivalents": 2.5}, r"'equivalents' holds whole numbers from 1 to 5, got 2.5"),
        ({"equivalents": 6}, r"'equivalents' is 6, outside"),
        ({"grade": 0.2}, r"'grade' holds one of 0.1, 0.5, 2.0"),
        ({"solvent": "DMF"}, r"no column 'solvent'; its columns are 'temperature'"),
    ],
)
def test_a_bad_value_names_its_column(change, message):
    with pytest.raises(InputError, match=message):
        Box(REACTION).check({**POINT, **change})


def test_a_point_of_another_size_is_refused():
    with pytest.raises(InputError, match="no value for column 'grade'"):
        Box(REACTION).check({name: cell for name, cell in POINT.items() if name != "grade"})
    with pytest.raises(ShapeError, match="6 values"):
        Box(REACTION).check([45.0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1, 2, 3]}, r"column 'a' is given as \[1, 2, 3\]"),
        ({"a": ["x"]}, "at least two levels"),
        ({"a": ["x", "x"]}, "all different"),
        ({"a": (3, 1)}, r"column 'a': the lower bound must be below"),
        ({"a": "x"}, "column 'a' must be"),
        ({"a": {"x": 1}}, "column 'a' must be"),
        ({3: (0, 1)}, "the name of a column is a text"),
        ({}, "at least one column"),
    ],
)
def test_columns_that_say_nothing_clear_are_refused(columns, message):
    with pytest.raises(SggpError, match=message):
        Box(columns)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Continuous(0.0, 1.0, log=True), "positive bounds"),
        (lambda: Continuous(0.0, float("inf")), "finite"),
        (lambda: Integer(1.5, 3), "must be an integer"),
        (lambda: Integer(-(2**63), 2**63 - 1), "more than a column can count"),
        (lambda: Continuous(-1.7e308, 1.7e308), "more than a column can count"),
        (lambda: Box([[-1.7e308, 1.7e308]]), "does not fit float64"),
        (lambda: Ordinal([1, 3, 2]), "in their order"),
        (lambda: Categorical(["a", float("nan")]), "finite"),
        (lambda: Categorical("ab"), "list of levels"),
        (lambda: Categorical(["a", " "]), "empty level"),
    ],
)
def test_columns_that_cannot_be_are_refused(make, message):
    with pytest.raises(SggpError, match=message):
        make()


def test_names_and_units():
    box = Box([[0, 1], [2, 3]], names=["a", "b"], units={"b": "mL"})
    assert (box.names, box.units) == (["a", "b"], {"a": "", "b": "mL"})
    assert Box([Continuous(0, 1), Integer(1, 3)]).names == ["x0", "x1"]
    with pytest.raises(ShapeError, match="1 names are given for 2"):
        Box([[0, 1], [2, 3]], names=["a"])
    with pytest.raises(InputError, match="all be different"):
        Box([[0, 1], [2, 3]], names=["a", "a"])
    with pytest.raises(InputError, match="no column 'c'"):
        Box([[0, 1]], names=["a"], units={"c": "mL"})


@pytest.mark.parametrize(
    "box",
    [
        Box([[0, 1], [-2, 2]]),
        Box([[0, 1], [-2, 2]], names=["a", "b"], units={"a": "mL"}),
        Box(REACTION),
        Box({"a": (0, 1), "b": (0, 2)}, constraints=[LinearConstraint({"a": 1, "b": -0.5}, at_most=0.25)]),
        Box({"a": (0, 1), "b": (0, 1)}, constraints=[LinearConstraint(["a", "b"], equals=1)]),
    ],
)
def test_a_described_box_is_made_again(box):
    told = json.loads(json.dumps(box.describe()))
    again = Box.from_description(told)
    assert again.describe() == box.describe()
    assert (again.columns, again.constraints) == (box.columns, box.constraints)
    points = [
        space.start(5, [], seed=3, generator=torch.Generator().manual_seed(0)) for space in (box, again)
    ]
    assert points[0] == points[1]


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"kind": "pool"},
        {"kind": "box"},
        {"kind": "box", "columns": [{"name": "a", "column": {"kind": "cyclic"}}]},
        {"kind": "box", "columns": [{"name": "a", "column": {"kind": "integer", "low": 1}}]},
    ],
)
def test_what_describes_no_box_is_refused(told):
    with pytest.raises(InputError, match="descri"):
        Box.from_description(told)


def test_bounds_that_an_old_file_holds_still_make_a_box():
    assert Box([[0, 1], [-2, 2]]).describe() == {"kind": "box", "bounds": [[0.0, 1.0], [-2.0, 2.0]]}


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (LinearConstraint({"t": 1}, at_most=1), "no column 't'"),
        (LinearConstraint({"base": 1}, at_most=1), "'base' is categorical"),
        (LinearConstraint({"catalyst": 1}, at_most=1), "'catalyst' is on a log scale"),
        (LinearConstraint({"equivalents": 1}, equals=1), "equals is for continuous columns"),
        (LinearConstraint({"temperature": 1}, at_most=10), "no point of the box fulfils.*temperature <= 10"),
        (LinearConstraint({"temperature": 1}, at_most=20), "leave no interior: temperature <= 20"),
        ("temperature < 3", "LinearConstraint objects"),
    ],
)
def test_constraints_that_cannot_be_are_refused(constraint, message):
    with pytest.raises(SggpError, match=message):
        Box(REACTION, constraints=[constraint])


@pytest.mark.parametrize(
    "given", [{}, {"at_most": 1, "equals": 1}, {"at_most": float("nan")}, {"at_least": "x"}]
)
def test_a_constraint_needs_bounds(given):
    with pytest.raises(InputError, match=r"at_most|at_least"):
        LinearConstraint({"a": 1}, **given)


def test_a_point_outside_the_constraints_is_refused_by_its_sum():
    box = Box({"a": (0, 1), "b": (0, 1)}, constraints=[LinearConstraint(["a", "b"], at_most=1)])
    assert box.check([0.5, 0.5]) == {"a": 0.5, "b": 0.5}
    with pytest.raises(InputError, match=r"a \+ b <= 1: the sum is 1.2"):
        box.check([0.6, 0.6])
