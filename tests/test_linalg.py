"""Cholesky factors: exact where there is one, a jitter of its own for each block, never a factor that is none."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import InputError
from sggp.linalg import JITTERS, cholesky, try_cholesky


def _blocks(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Positive definite, singular, indefinite, NaN and negative by less than the largest jitter."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    slightly = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1e-7], dtype=torch.float64))
    one = torch.eye(4, dtype=torch.float64)
    return torch.stack([root @ root.T, torch.ones(4, 4), one - 2, one * torch.nan, slightly]).to(dtype)


def test_each_block_takes_the_jitter_it_needs_and_no_more():
    blocks = _blocks()
    given = blocks.clone()
    lower, jitter = try_cholesky(blocks)
    assert torch.equal(blocks.nan_to_num(), given.nan_to_num())
    assert jitter[0] == 0
    assert jitter[4] == 1e-6  # shares of the mean diagonal, .75: 1e-8 leaves the last entry negative
    assert 0 < jitter[1] <= 1e-10
    for i in (0, 1, 4):
        raised = blocks[i] + jitter[i] * blocks[i].diagonal().mean() * torch.eye(4, dtype=torch.float64)
        bound = 16 * torch.finfo(torch.float64).eps * float(blocks[i].diagonal().max())
        assert float((lower[i] @ lower[i].T - raised).abs().max()) <= bound
        assert torch.equal(lower[i], lower[i].tril())


def test_what_has_no_factor_is_marked_and_cannot_be_used():
    lower, jitter = try_cholesky(_blocks())
    for i in (2, 3):
        assert jitter[i] == torch.inf
        assert bool(lower[i].isnan().all())
    single, taken = try_cholesky(_blocks()[2])
    assert taken == torch.inf
    assert bool(single.isnan().all())


@pytest.mark.parametrize("which", [2, 3])
def test_the_strict_form_names_the_matrix(which):
    with pytest.raises(
        InputError, match=r"the test's matrix is not positive definite even with a jitter of 1e-04"
    ):
        cholesky(_blocks()[which], "the test's matrix")


def test_blocks_do_not_depend_on_each_other():
    blocks = _blocks()
    together = try_cholesky(blocks)[0]
    for i in (0, 1, 4):
        torch.testing.assert_close(together[i], cholesky(blocks[i], "one"), rtol=0, atol=1e-14)


def test_least_is_taken_in_any_case_and_scale_is_what_it_is_a_share_of():
    block = _blocks()[0]
    lower, jitter = try_cholesky(block, scale=3.0, least=1e-5)
    assert jitter == 1e-5
    raised = block + 3e-5 * torch.eye(4, dtype=torch.float64)
    assert float((lower @ lower.T - raised).abs().max()) <= 16 * 2.3e-16 * float(block.diagonal().max())
    assert float((lower @ lower.T - block).abs().max()) > 2e-5


def test_out_holds_the_factor_also_after_a_jitter():
    for which in (0, 1, 4):
        block = _blocks()[which]
        out = torch.empty_like(block)
        lower = cholesky(block, "one", out=out)
        assert lower.data_ptr() == out.data_ptr()
        torch.testing.assert_close(lower, cholesky(block, "one"), rtol=0, atol=1e-14)


def test_float32_has_a_ladder_of_its_own():
    jitter = try_cholesky(_blocks(torch.float32)[1])[1]
    assert float(jitter) in [pytest.approx(j) for j in JITTERS[torch.float32][1:3]]
    assert try_cholesky(torch.empty(0, 3, 3))[0].shape == (0, 3, 3)
