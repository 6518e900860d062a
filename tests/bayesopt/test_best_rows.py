"""The best rows of every path, shard by shard."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel

from sggp import condition
from sggp.bayesopt.streaming import PathSearch
from sggp.errors import DataFileError, InputError, ShapeError
from tests.scripts import ROOT, Scripts


def paths(points: torch.Tensor) -> torch.Tensor:
    """Three functions; the last is constant, so that all rows are equal."""
    first = points.double()[:, 0]
    return torch.stack([first, -(first - 20.0).square(), torch.zeros_like(first)])


TABLE = np.random.default_rng(0).permutation(50.0 * np.arange(101) / 100)[:, None]
SHARDS, STARTS = np.split(TABLE, [30, 31, 90]), [0, 30, 31, 90]


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize(("k", "block"), [(1, 7), (5, 16_384), (200, 10)])
def test_shards_give_what_the_whole_table_gives(k: int, block: int, maximize: bool) -> None:
    search = PathSearch(paths, k, maximize=maximize, block=block)
    best = search.reduce(*map(search.shard, SHARDS, STARTS))
    values = paths(torch.from_numpy(TABLE)).numpy()
    order = np.argsort(-values if maximize else values, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(best.rows, order)
    np.testing.assert_array_equal(best.values, np.take_along_axis(values, order, 1))


def test_any_order_and_any_grouping_of_shards() -> None:
    search = pickle.loads(pickle.dumps(PathSearch(paths, 3)))
    a, b, c, d = map(search.shard, SHARDS, STARTS)
    one, other = search.reduce(a, b, c, d), search.reduce(search.reduce(d, b), search.reduce(c, a))
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.values, other.values)


def test_counts_and_tensors_are_tables_too() -> None:
    table = torch.arange(9, dtype=torch.uint8)[:, None]
    np.testing.assert_array_equal(PathSearch(paths, 2).shard(table).rows, [[8, 7], [8, 7], [0, 1]])


def test_truth_values_are_zeros_and_ones() -> None:
    """As fingerprints are kept, for a posterior that takes numbers."""
    x = torch.eye(3, dtype=torch.float64)
    posterior = condition(RBFKernel().double(), x, x[:, 0], noise_variance=0.1, num_samples=2, generator=0)
    search = PathSearch(posterior.samples, 3)
    best = search.shard(np.eye(3, dtype=bool))
    np.testing.assert_array_equal(best.values, search.shard(np.eye(3, dtype=np.uint8)).values)


def test_joblib_finds_what_one_process_finds(scripts: Scripts, tmp_path: Path) -> None:
    """In processes of its own, from files."""
    done = scripts.run(ROOT / "tests" / "bayesopt" / "map_shards.py", tmp_path)
    assert done.stdout == "(8, 3) (True, True)\n", done.stderr[-2000:]


def test_shards_without_rows_and_of_other_machines(tmp_path: Path) -> None:
    search, foreign = PathSearch(paths, 5), tmp_path / "foreign.npy"
    np.save(foreign, TABLE.astype(">f8"))
    whole = search.shard(TABLE)
    for table in (foreign, TABLE.astype(np.longdouble)):
        np.testing.assert_array_equal(search.shard(table).rows, whole.rows)
    none = search.shard(TABLE[:0], 101)
    assert none.rows.shape == none.values.shape == (3, 0)
    np.testing.assert_array_equal(search.reduce(none, search.shard(TABLE), none).rows, whole.rows)
    assert search.reduce(none, none).rows.shape == (3, 0)


def test_misuse(tmp_path: Path) -> None:
    search = PathSearch(paths)
    (tmp_path / "text.npy").write_text("no table")
    with pytest.raises(DataFileError, match=r"as a \.npy file"):
        search.shard(tmp_path / "text.npy")
    with pytest.raises(DataFileError, match=r"none\.npy"):
        search.shard(tmp_path / "none.npy")
    for rows in (np.zeros(3), np.zeros((2, 2, 1)), np.array([["a"]]), [[1.0, 2.0], [3.0]], None):
        with pytest.raises(ShapeError, match=r"\(n, d\) numbers"):
            search.shard(rows)
    with pytest.raises(InputError, match="nothing to join"):
        search.reduce()
    with pytest.raises(InputError, match="of 3 and of 1 paths"):
        search.reduce(search.shard(TABLE), PathSearch(lambda points: points.T).shard(TABLE))
    with pytest.raises(InputError, match="samples must be functions"):
        PathSearch(samples=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not finite"):
        search.shard(np.array([[np.nan]]))
