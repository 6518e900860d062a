"""Boxes and pools: what they accept, what they refuse."""

from __future__ import annotations

import pytest
import torch

from sggp.bayesopt import Box, Pool
from sggp.bayesopt.maximise import as_indices
from sggp.errors import DtypeError, InputError, ShapeError


@pytest.mark.parametrize("bounds", [[0.0, 1.0], torch.zeros(2, 3), torch.zeros(0, 2)])
def test_bounds_of_another_shape_are_refused(bounds):
    with pytest.raises(ShapeError, match=r"\(d, 2\)"):
        Box(bounds)


def test_bounds_must_be_finite_and_ordered():
    with pytest.raises(InputError, match="finite"):
        Box([[0.0, float("inf")]])
    with pytest.raises(InputError, match=r"dimension\(s\) \[1\]"):
        Box([[0.0, 1.0], [2.0, 2.0]])


def test_unit_cube_coordinates_go_there_and_back():
    box = Box([[-5.0, 10.0], [1e3, 1e4]])
    points = box.sample(100, generator=torch.Generator().manual_seed(0))
    assert (points >= box.low).all()
    assert (points <= box.low + box.width).all()
    torch.testing.assert_close(box.from_unit(box.to_unit(points)), points, rtol=1e-12, atol=1e-9)


def test_uniform_points_fill_the_box():
    box = Box([[-5.0, 10.0], [0.0, 2.0]])
    points = box.sample(20_000, generator=torch.Generator().manual_seed(0))
    # the mean of n uniform points has standard deviation width / sqrt(12 n)
    error = (points.mean(0) - torch.tensor([2.5, 1.0])) / (box.width / (12 * 20_000) ** 0.5)
    assert error.abs().max() < 4


def test_a_point_outside_the_box_is_refused():
    box = Box([[0.0, 1.0]])
    with pytest.raises(InputError, match="outside"):
        box.check([1.5])
    with pytest.raises(InputError, match="finite"):
        box.check([float("nan")])
    with pytest.raises(ShapeError, match="has 1 values"):
        box.check([0.5, 0.5])


def test_pool_refuses_what_it_cannot_use():
    with pytest.raises(InputError, match="no rows"):
        Pool(torch.empty(0, 3))
    with pytest.raises(ShapeError, match=r"\(N, d\)"):
        Pool(torch.zeros(3))
    with pytest.raises(DtypeError, match="int"):
        Pool(3)
    with pytest.raises(InputError, match="chunk_size"):
        Pool(torch.zeros(3, 1), chunk_size=0)
    with pytest.raises(InputError, match=r"rows 0\.\.2"):
        Pool(torch.zeros(3, 1)).rows([3])


def test_chunks_cover_the_pool_once_in_order():
    table = torch.arange(23).reshape(-1, 1)
    parts = list(Pool(table, chunk_size=5).chunks())
    assert [start for start, _ in parts] == [0, 5, 10, 15, 20]
    assert torch.equal(torch.cat([part for _, part in parts]), table)


def test_another_pool_has_another_description():
    table = torch.arange(40).reshape(20, 2)
    changed = table.clone()
    changed[0, 0] = 7
    assert Pool(table).describe() == Pool(table.clone()).describe()
    assert Pool(table).describe() != Pool(changed).describe()


def test_rows_come_as_indices_or_mask():
    mask = torch.tensor([True, False, True])
    assert as_indices(mask, 3, what="exclude").tolist() == [0, 2]
    assert as_indices([2, 0, 2], 3, what="exclude").tolist() == [2, 0, 2]
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        as_indices(mask, 4, what="exclude")
    with pytest.raises(InputError, match="exclude holds row"):
        as_indices([3], 3, what="exclude")
    with pytest.raises(DtypeError, match="integers"):
        as_indices(torch.tensor([0.5]), 3, what="exclude")
