"""A solver's settings go into a file as plain values and come back as the same solver."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pytest
import torch

from sggp.errors import InputError
from sggp.preconditioners import (
    Balanced,
    Given,
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    PivotedCholesky,
    Preconditioner,
)
from sggp.solvers import (
    Auto,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    StochasticDualDescent,
    StochasticGradientDescent,
    describe_solver,
    rebuild_solver,
)
from tests.catalogue import SOLVERS

CHANGED = [
    Auto(direct_rows=0),
    Cholesky(factor_dtype=torch.float32),
    SketchAndProject(block_size=60, rank=0, tail_averaging=True),
    SketchAndProject(tail_averaging=0.25),
    StochasticDualDescent.paper(),
    StochasticGradientDescent(batch_size=7, momentum=0.0),
    ConjugateGradients(None, replace_every=7, float64_products=True),
    *(
        ConjugateGradients(kind)
        for kind in (
            Balanced(columns=3, memory_budget=1e6),
            LowRankPlusNeighbour(None, 7),
            NearestNeighbour(9),
            Nystrom(11, landmarks="uniform"),
            PivotedCholesky(12),
        )
    ),
]


@pytest.mark.parametrize("solver", [*(row.solver for row in SOLVERS), *CHANGED], ids=repr)
def test_every_solver_comes_back_from_a_file_without_pickle(solver):
    content = describe_solver(solver)
    assert rebuild_solver(json.loads(json.dumps(content))) == solver
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    back = rebuild_solver(torch.load(file, weights_only=True))
    assert back == solver
    assert type(back) is type(solver)


@dataclass(frozen=True)
class Own(ConjugateGradients):
    pass


@dataclass(frozen=True)
class OwnPreconditioner(Preconditioner):
    def build(self, operator, generator):
        raise NotImplementedError


class Cholesky2(Cholesky):
    pass


Cholesky2.__name__ = "Cholesky"  # a class of the user's own under a name of ours


@pytest.mark.parametrize(
    "solver",
    [Own(), ConjugateGradients(OwnPreconditioner()), ConjugateGradients(Given(object())), Cholesky2()],
    ids=["solver", "preconditioner", "built", "name"],
)
def test_what_a_file_cannot_hold_is_none(solver):
    assert describe_solver(solver) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"class": "Solver"},
        {"class": "os"},
        {"class": 3},
        {"class": "Nystrom", "rank": 3, "landmarks": "uniform"},
        {"class": "Cholesky", "speed": 2},
        {"class": "Cholesky", "factor_dtype": "torch.save"},
        {"class": "ConjugateGradients", "preconditioner": {"class": "Nothing"}},
    ],
    ids=str,
)
def test_other_dictionaries_are_refused(content):
    with pytest.raises(InputError):
        rebuild_solver(content)
