"""What a saved posterior says of its solve, after it is loaded."""

from __future__ import annotations

import dataclasses
import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sggp.errors import DataFileError, DtypeError, InputError, NotSaved
from sggp.persistence import read_content, write_content
from sggp.posterior import Posterior, condition
from sggp.preconditioners import LowRankPlusNeighbour
from sggp.solvers import AlternatingProjections, Auto, Cholesky, ConjugateGradients, Solver
from tests.solvers.dense import matern


@pytest.fixture
def estimated(generator) -> Posterior:
    """A posterior whose budget ended before its residuals could be measured."""
    x = torch.rand(1500, 2, generator=generator, dtype=torch.float64)
    return condition(
        matern(2),
        x,
        torch.sin(3 * x).sum(1),
        noise_variance=1e-3,
        num_samples=2,
        num_features=64,
        solver=ConjugateGradients(None),
        max_epochs=4,
        on_failure="return",
        generator=0,
    )


def test_an_estimated_residual_stays_an_estimate(estimated, tmp_path):
    given = estimated.solution
    assert given.residual_kind == "estimated"
    estimated.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p").solution
    assert loaded.residual_kind == "estimated"
    assert torch.equal(loaded.residual_error, given.residual_error)
    assert torch.equal(loaded.residual, given.residual)
    assert loaded.status == given.status
    assert repr(loaded) == repr(given)


def old_file(posterior: Posterior, folder: Path, **changes) -> Path:
    """The posterior as the first format had it: no checksum, of the solver its class, of a residual not its kind."""
    posterior.save(folder / "new")
    content = read_content(folder / "new", "posterior") | {"format": "sggp-posterior-1"} | changes
    content["settings"]["solver"] = type(posterior.options.solver).__name__
    del content["settings"]["solver_name"]
    del content["solution"]["residual_kind"], content["solution"]["residual_error"]
    torch.save(content, folder / "old")
    return folder / "old"


def test_files_that_do_not_say_hold_measured_residuals(estimated, tmp_path):
    loaded = Posterior.load(old_file(estimated, tmp_path))
    assert loaded.solution.residual_kind == "true"
    assert torch.equal(loaded.solution.residual_error, torch.zeros(3, dtype=torch.float64))
    assert loaded.options.solver == ConjugateGradients()  # the class was all that was written
    points = torch.rand(4, 2, dtype=torch.float64)
    assert torch.equal(loaded.samples(points), estimated.samples(points))


def small(solver: Solver | None, dtype: torch.dtype = torch.float64, **options) -> Posterior:
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    options = {"num_samples": 3, "num_features": 32, "generator": 0} | options
    return condition(matern(2), x, torch.sin(3 * x).sum(1), noise_variance=1e-2, solver=solver, **options)


@pytest.mark.parametrize(
    "solver",
    [
        None,
        Cholesky(factor_dtype=torch.float32),
        ConjugateGradients(LowRankPlusNeighbour(rank=20, neighbours=7), replace_every=9),
        AlternatingProjections(),
        Auto(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_the_solver_comes_back_with_its_settings(solver, tmp_path):
    posterior = small(solver, max_epochs=77.0, max_seconds=5.0, memory_budget=1e8)
    posterior.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p")
    assert loaded.options.solver == solver
    for name in (
        "num_features",
        "dtype",
        "memory_budget",
        "max_epochs",
        "max_seconds",
        "on_failure",
        "centres",
    ):
        assert getattr(loaded.options, name) == getattr(posterior.options, name)
    assert torch.equal(
        torch.as_tensor(loaded.options.tolerance), torch.as_tensor(posterior.options.tolerance)
    )
    more = torch.rand(3, 2, dtype=torch.float64)
    updated = [p.update(more, torch.ones(3), generator=1).solution.x for p in (loaded, posterior)]
    assert torch.equal(*updated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_predictions_are_the_same_numbers(dtype, tmp_path):
    posterior = small(None, dtype)
    posterior.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p")
    for name in ("x", "residual", "residual_error", "tolerance"):
        ours, theirs = getattr(posterior.solution, name), getattr(loaded.solution, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert loaded.solution.method == posterior.solution.method
    points = torch.rand(5, 2).to(dtype)
    assert torch.equal(loaded.mean(points), posterior.mean(points))
    assert torch.equal(loaded.samples(points), posterior.samples(points))


@dataclasses.dataclass(frozen=True)
class Mine(ConjugateGradients):
    """A solver of the user's own."""


def test_a_solver_of_ones_own_is_asked_for_and_its_work_is_kept(tmp_path):
    posterior = small(Mine())
    with pytest.warns(NotSaved, match=r"p, Mine, is of a class of your own.*solver=\.\.\."):
        posterior.save(tmp_path / "p")
    with pytest.warns(NotSaved, match="Mine"):
        loaded = Posterior.load(tmp_path / "p")
    assert loaded.options.solver is None
    assert torch.equal(loaded.mean_weights, posterior.mean_weights)
    assert Posterior.load(tmp_path / "p", solver=Mine()).options.solver == Mine()
    with pytest.raises(DtypeError, match="solver must be"):
        Posterior.load(tmp_path / "p", solver="cg")


def test_a_solver_takes_the_place_of_the_one_saved(tmp_path):
    small(Cholesky()).save(tmp_path / "p")
    given = ConjugateGradients(replace_every=3)
    assert Posterior.load(tmp_path / "p", solver=given).options.solver == given


def _rewritten(path: Path, change: Callable[[dict], None]) -> bytes:
    """The file with its content changed and checksums that are right."""
    content = read_content(path, "posterior")
    change(content)
    write_content(path.with_name("changed"), content.pop("kind", "posterior"), content)
    return path.with_name("changed").read_bytes()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mine", "hello")
    return stream.getvalue()


def _pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


DAMAGE = {
    "empty": lambda whole, path: b"",
    "text": lambda whole, path: b"x,y\n1,2\n",
    "cut": lambda whole, path: whole[: len(whole) // 2],
    "without its last byte": lambda whole, path: whole[:-1],
    "longer": lambda whole, path: whole + b"more",
    "flipped in the head": lambda whole, path: _flipped(whole, 50),
    "flipped in the middle": lambda whole, path: _flipped(whole, len(whole) // 2),
    "flipped in the checksum": lambda whole, path: _flipped(whole, len(whole) - 5),
    "a zip of somebody": lambda whole, path: _zip(),
    "a tensor": lambda whole, path: _pickled(torch.ones(3)),
    "a dictionary": lambda whole, path: _pickled({"format": "mine"}),
    "a module": lambda whole, path: _pickled(torch.nn.Linear(2, 1)),
    "a pickle": lambda whole, path: pickle.dumps({"format": "sggp-posterior-2"}),
    "another kind": lambda whole, path: _rewritten(path, lambda c: c.update(kind="estimator")),
    "no data": lambda whole, path: _rewritten(path, lambda c: c.pop("data")),
    "no kernel": lambda whole, path: _rewritten(path, lambda c: c.pop("kernel")),
    "unknown kernel": lambda whole, path: _rewritten(path, lambda c: c["kernel"].update(type="Mine")),
    "no status": lambda whole, path: _rewritten(path, lambda c: c["solution"].pop("status")),
    "unknown status": lambda whole, path: _rewritten(
        path, lambda c: c["solution"].update(status=["good"] * 4)
    ),
    "unknown solver": lambda whole, path: _rewritten(
        path, lambda c: c["settings"].update(solver={"class": "A"})
    ),
    "targets too short": lambda whole, path: _rewritten(
        path, lambda c: c["data"].update(y=c["data"]["y"][1:])
    ),
    "weights too few": lambda whole, path: _rewritten(
        path, lambda c: c["solution"].update(x=c["solution"]["x"][:, 1:])
    ),
    "text for rows": lambda whole, path: _rewritten(path, lambda c: c["data"].update(x="rows")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_kept(damage, tmp_path):
    path = tmp_path / "whole"
    small(ConjugateGradients()).save(path)
    damaged = DAMAGE[damage](path.read_bytes(), path)
    path.write_bytes(damaged)
    with pytest.raises(DataFileError, match=re.escape(str(path))) as told:
        Posterior.load(path)
    message = str(told.value)
    assert not any(word in message for word in ("torch", "weights_only", "Pickle", "archive", "zip"))
    assert re.search("again|another path", message)
    assert path.read_bytes() == damaged


def test_places_that_cannot_be_written_or_read(tmp_path):
    posterior = small(None)
    for place in (tmp_path / "missing" / "p", tmp_path):
        with pytest.raises(DataFileError, match=re.escape(str(place))):
            posterior.save(place)
        with pytest.raises(DataFileError, match=re.escape(str(place))):
            Posterior.load(place)
    for value in (None, 3, b"p"):
        with pytest.raises(InputError, match="path must be a path, got"):
            posterior.save(value)
        with pytest.raises(InputError, match="path must be a path, got"):
            Posterior.load(value)
    assert list(tmp_path.iterdir()) == []


def test_another_kernel_than_the_one_saved_is_told(tmp_path):
    small(None).save(tmp_path / "p")
    with pytest.raises(DataFileError, match="kernel="):
        Posterior.load(tmp_path / "p", kernel=matern(5))
