"""Every rule over a pool, against the same choice worked out on all rows at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scipy.stats import norm

from sggp.bayesopt import Pool, fit_surrogate
from sggp.bayesopt.rules import RULES, Rule, make_rule
from sggp.bayesopt.rules.ei import log_gain
from sggp.bayesopt.rules.sweep import best_rows
from sggp.errors import InputError
from tests.bayesopt.paths import Known, Table

OF_ONE = [name for name in RULES if name != "hypervolume"]  # which is for several objectives

ROWS = 60
POOL = torch.arange(ROWS)[:, None]


@dataclass(frozen=True)
class Gaussian:
    """A posterior over integer-coded rows: mean (N,), covariance (N, N), and paths drawn from them."""

    center: torch.Tensor
    joint: torch.Tensor
    samples: Table
    noise_variance: float = 0.05

    def mean_and_variance(self, points):
        rows = points[:, 0].long()
        self.samples.seen.append(len(rows))
        return self.center[rows], self.joint.diagonal()[rows]

    def mean(self, points):
        self.samples.seen.append(len(points))
        return self.center[points[:, 0].long()]

    def covariance_matrix(self, points):
        rows = points[:, 0].long()
        return self.joint[rows][:, rows]


def gaussian(sign: float = 1.0, count: int = 256) -> Gaussian:
    """Neighbouring rows are alike, so that what one tells about the next matters."""
    generator = torch.Generator().manual_seed(3)
    center = 0.3 * torch.randn(ROWS, generator=generator, dtype=torch.float64)
    place = torch.arange(ROWS, dtype=torch.float64)
    scale = 0.5 + torch.rand(ROWS, generator=generator, dtype=torch.float64)
    joint = torch.exp(-0.5 * ((place[:, None] - place) / 2) ** 2) * scale[:, None] * scale
    drawn = torch.linalg.cholesky(joint + 1e-9 * torch.eye(ROWS)) @ torch.randn(
        ROWS, count, generator=generator, dtype=torch.float64
    )
    return Gaussian(sign * center, joint, Table(sign * (center[:, None] + drawn).T.contiguous(), []))


def batch_of(name: str, posterior: Any, q: int = 7, pool: Pool | None = None, **options: Any) -> Any:
    rule = make_rule(name, Pool(POOL) if pool is None else pool, q, maximize=options.pop("maximize", True))
    return rule.choose(posterior, generator=5, **options)


def one_by_one(posterior: Gaussian, score: Any, q: int) -> list[int]:
    """The batch whose variances are those after all earlier choices, each by an inverse of its own."""
    picked: list[int] = []
    for _ in range(q):
        var = posterior.joint.diagonal()
        if picked:
            cross = posterior.joint[picked]
            gram = cross[:, picked] + posterior.noise_variance * torch.eye(len(picked), dtype=torch.float64)
            var = var - (cross * torch.linalg.solve(gram, cross)).sum(0)
        value = score(posterior.center, var.clamp_min(1e-20).sqrt())
        value[picked] = -math.inf
        picked.append(int(value.argmax()))
    return picked


class TestOracles:
    def test_upper_confidence_bounds_follow_the_batch(self):
        posterior = gaussian()
        width = RULES["ucb"].width  # type: ignore[attr-defined]
        expected = one_by_one(posterior, lambda mean, std: mean + width * std, 7)
        assert batch_of("ucb", posterior).places.tolist() == expected
        alone = (posterior.center + width * posterior.joint.diagonal().sqrt()).topk(7).indices.tolist()
        assert expected != alone  # the batch matters here

    def test_expected_improvement_is_that_on_the_kth_best_mean(self):
        posterior = gaussian()
        mark = float(posterior.center.topk(7).values[-1])

        def gain(mean, std):
            z = ((mean - mark) / std).numpy()
            return torch.from_numpy(norm.pdf(z) + z * norm.cdf(z)) * std

        choice = batch_of("ei", posterior)
        assert choice.places.tolist() == one_by_one(posterior, gain, 7)
        first = gain(posterior.center, posterior.joint.diagonal().sqrt())[choice.places[0]]
        assert choice.values[0].exp().item() == pytest.approx(first.item(), rel=1e-9)

    def test_the_logarithm_of_the_gain_holds_where_the_gain_is_nothing(self):
        near = torch.tensor([-5.0, -1.0, 0.0, 3.0, 50.0], dtype=torch.float64)
        plain = norm.pdf(near.numpy()) + near.numpy() * norm.cdf(near.numpy())
        assert log_gain(near).exp().tolist() == pytest.approx(plain.tolist(), rel=1e-8)
        # far out φ(z) + zΦ(z) is φ(z)/z²·(1 − 3/z² + …)
        far = torch.tensor([-3e4, -1e3, -300.0], dtype=torch.float64)
        tail = norm.logpdf(far.numpy()) - (far.square().log() + 3 / far.square()).numpy()
        assert log_gain(far).tolist() == pytest.approx(tail.tolist(), abs=1e-6)

    def test_greedy_takes_the_largest_means(self):
        posterior = gaussian()
        choice = batch_of("greedy", posterior)
        assert choice.places.tolist() == posterior.center.topk(7).indices.tolist()
        assert torch.equal(choice.values, posterior.center[choice.places])

    def test_top_k_counts_who_belongs_to_the_best(self):
        posterior = gaussian()
        paths = posterior.samples.values
        member = torch.zeros_like(paths, dtype=torch.bool)
        for path, row in zip(paths, member, strict=True):
            row[path.argsort(descending=True)[:7]] = True
        counts, mean = member.sum(0), paths.mean(0)
        expected = sorted(range(ROWS), key=lambda row: (-int(counts[row]), -float(mean[row])))[:7]
        choice = batch_of("top-k", posterior)
        assert choice.places.tolist() == expected
        assert choice.values.tolist() == [int(counts[row]) / 256 for row in expected]
        assert choice.why[0].endswith(f"in the top 7 in {int(counts[expected[0]])} of 256 samples")

    def test_the_top_is_one_per_cent_of_a_large_pool(self):
        rule = make_rule("top-k", Pool(torch.arange(3000)[:, None]), 4)
        assert rule.k == 30

    def test_tempered_paths_lie_between_the_mean_and_the_sample(self):
        posterior = gaussian(count=7)
        heat = RULES["tempered"].heat  # type: ignore[attr-defined]
        paths = posterior.center + heat * (posterior.samples.values - posterior.center)
        taken: list[int] = []
        for path in paths:
            path[taken] = -math.inf
            taken.append(int(path.argmax()))
        assert batch_of("tempered", posterior).places.tolist() == taken


@pytest.mark.parametrize("name", OF_ONE)
class TestEveryRule:
    def test_blocks_give_the_batch_of_one_block(self, name):
        posterior = gaussian()
        whole = batch_of(name, posterior)
        for size in (1, 7, 59):
            part = batch_of(name, posterior, pool=Pool(POOL, chunk_size=size))
            assert torch.equal(part.places, whole.places)
            torch.testing.assert_close(part.values, whole.values, rtol=1e-12, atol=0)

    def test_excluded_and_pending_rows_are_left_out(self, name):
        posterior = gaussian()
        first = batch_of(name, posterior).places.tolist()
        banned, pending = first[:3], first[3:]
        again = batch_of(name, posterior, exclude=banned, pending=torch.tensor(pending)).places.tolist()
        assert len(set(again)) == 7
        assert not set(again) & set(first)
        rest = [row for row in range(ROWS) if row not in again]
        assert sorted(batch_of(name, posterior, exclude=rest).places.tolist()) == sorted(again)
        with pytest.raises(InputError, match="7 rows are asked for but 6"):
            batch_of(name, posterior, exclude=[*rest, again[0]])

    def test_the_smallest_are_the_largest_mirrored(self, name):
        up, down = batch_of(name, gaussian()), batch_of(name, gaussian(-1.0), maximize=False)
        assert torch.equal(up.places, down.places)
        share = name == "top-k"
        torch.testing.assert_close(down.values, up.values if share else -up.values, rtol=1e-12, atol=0)

    def test_equal_rows_go_by_their_number(self, name):
        flat = Gaussian(
            torch.zeros(ROWS).double(), torch.eye(ROWS).double(), Table(torch.zeros(256, ROWS), [])
        )
        assert batch_of(name, flat, q=4).places.tolist() == [0, 1, 2, 3]

    def test_many_rows_are_distinct_and_no_block_is_larger_than_it_should_be(self, name):
        n, q = 650, 500
        generator = torch.Generator().manual_seed(1)
        seen: list[int] = []
        center = torch.randn(n, generator=generator, dtype=torch.float64)
        values = torch.randn(q, n, generator=generator, dtype=torch.float64)
        posterior = Gaussian(center, torch.eye(n).double(), Table(values, seen))
        choice = batch_of(
            name, posterior, q=q, pool=Pool(torch.arange(n)[:, None], chunk_size=250), exclude=[5]
        )
        assert len(set(choice.places.tolist()) - {5}) == q
        assert len(choice.why) == len(choice.values) == q
        assert max(size for size in seen if size != q) <= 250  # the reasons are for the q rows themselves

    def test_reasons_are_in_the_users_units(self, name):
        posterior = gaussian()
        choice = batch_of(name, posterior, q=2, scaling=(100.0, 10.0))
        row = int(choice.places[1])
        mean = 100 + 10 * float(posterior.center[row])
        std = 10 * float(posterior.joint[row, row]) ** 0.5
        assert choice.why[1].startswith(f"expected {mean:.4g} ± {std:.2g}; ")
        assert len(choice.why[1].split("; ")[1]) > 10

    def test_a_posterior_without_joint_covariances_is_enough(self, name):
        full = gaussian()

        @dataclass(frozen=True)
        class Two:
            samples: Table

            def mean_and_variance(self, points):
                return full.mean_and_variance(points)

        choice = batch_of(name, Two(full.samples), exclude=[2])
        assert len(set(choice.places.tolist()) - {2}) == 7

    def test_a_value_that_is_not_finite_is_refused(self, name):
        posterior = gaussian()
        bad = replace(posterior, center=posterior.center.clone())
        bad.center[4] = math.nan
        bad.samples.values[:, 4] = math.nan
        with pytest.raises(InputError, match="not finite"):
            batch_of(name, bad)

    def test_it_finds_what_is_good_with_the_model_of_a_campaign(self, name):
        generator = torch.Generator().manual_seed(0)
        counts = torch.randint(0, 4, (400, 16), generator=generator).to(torch.uint8)
        values = counts.double().sum(1)
        model = fit_surrogate(counts[:80], values[:80], num_samples=256, generator=0)
        choice = make_rule(name, Pool(counts), 20).choose(
            model.posterior, exclude=range(80), generator=1, scaling=(model.offset, model.scale)
        )
        assert values[choice.places].mean() > values[80:].mean() + values[80:].std()


@pytest.mark.parametrize("name", ["ucb", "ei"])
def test_a_large_posterior_is_looked_at_by_paths_and_its_best_rows_are_solved_for(name, monkeypatch):
    """No variance of the whole pool is asked for, and where the second look is wide the batch is that of solving."""
    solved: list[int] = []

    @dataclass(frozen=True)
    class Large(Gaussian):
        x: Any = POOL

        def mean_and_variance(self, points, method="auto"):
            if method == "solve":
                solved.append(len(points))
            else:
                assert len(points) == 7  # for the reasons
            return super().mean_and_variance(points)

    small = gaussian()
    expected = batch_of(name, small)
    monkeypatch.setattr("sggp.bayesopt.rules.scores.DIRECT_ROWS", ROWS - 1)
    monkeypatch.setattr("sggp.bayesopt.rules.scores._ROUGH_ROWS", 1)
    choice = batch_of(name, Large(small.center, small.joint, small.samples), exclude=[0])
    assert solved == [42]
    assert len(set(choice.places.tolist()) & set(expected.places.tolist())) >= (7 if name == "ucb" else 6)


def test_twins_are_not_asked_about_twice():
    """The same candidate twice in the pool: one of them is left out, and so is a twin of a measured row."""
    table = POOL.clone()
    best = gaussian().center.topk(2).indices.tolist()
    table[0], table[1] = table[best[0]], table[best[1]]
    for name in OF_ONE:
        chosen = batch_of(name, gaussian(), pool=Pool(table), exclude=[best[1]]).places.tolist()
        codes = table[chosen, 0].tolist()
        assert len(set(codes)) == len(codes)
        assert best[1] not in codes


def test_a_rule_that_only_names_functions_still_has_reasons():
    class First(Rule):
        def functions(self, posterior, generator):
            return posterior.samples.select(torch.arange(self.batch_size))

    choice = First(Pool(POOL), 2).choose(Known(gaussian().samples), generator=0, scaling=(1.0, 2.0))
    assert choice.why[1] == f"the best of the rule's function 2: {1 + 2 * float(choice.values[1]):.4g}"


def test_best_rows_with_ties():
    score = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0])
    free = torch.tensor([True, True, False, True, True])
    assert best_rows(score, free, 3).tolist() == [1, 4, 3]
    assert best_rows(torch.zeros(5), free, 2).tolist() == [0, 1]
