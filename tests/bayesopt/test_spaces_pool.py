"""Pools: what is a count and what a number, categories in data frames, keys and twins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sggp.bayesopt import Campaign, Pool, ThompsonSampling, fit_surrogate
from sggp.bayesopt.trials import Place
from sggp.errors import InputError, SggpError, ShapeError
from tests.bayesopt.paths import Functions, Known

pd = pytest.importorskip("pandas")

SETTINGS = torch.cartesian_prod(torch.arange(20, 121, 10), torch.arange(1, 6))  # °C, equivalents


class Library:
    """Rows of counts with texts, as a `FingerprintTable` has them."""

    def __init__(self, counts: torch.Tensor, **texts: list[str]) -> None:
        self.counts = counts
        for name, values in texts.items():
            setattr(self, name, values)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows):
        return self.counts[rows]


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (SETTINGS, "numbers"),
        (SETTINGS.to(torch.int32).numpy(), "numbers"),
        (SETTINGS.tolist(), "numbers"),
        (pd.DataFrame(SETTINGS.numpy()), "numbers"),
        (SETTINGS.double(), "numbers"),
        (Library(SETTINGS), "numbers"),
        (SETTINGS.to(torch.uint8), "counts"),
        (SETTINGS > 50, "counts"),
        (np.eye(3, dtype=bool), "counts"),
        (Library(SETTINGS.to(torch.uint8)), "counts"),
    ],
)
def test_bytes_and_bits_are_counts_and_all_else_numbers(table, kind):
    pool = Pool(table)
    assert pool.kind == kind
    assert pool.rows([0]).is_floating_point() == (kind == "numbers")
    assert Pool(table, kind="counts").kind == "counts"
    assert Pool(table, kind="numbers").rows([0]).dtype == torch.float64


def test_counts_must_be_counts():
    with pytest.raises(InputError, match="fractions"):
        Pool([[0.5]], kind="counts")
    with pytest.raises(InputError, match="negative"):
        Pool([[-1]], kind="counts")
    with pytest.raises(InputError, match="'counts', 'numbers' or None"):
        Pool(SETTINGS, kind="fingerprints")
    assert Pool([[2.0, 0.0]], kind="counts").rows([0]).tolist() == [[2, 0]]


def test_whole_number_settings_get_a_kernel_of_distances(tmp_path):
    """They got a fingerprint kernel in silence, for which 20 °C and 120 °C differ as 1 and 6 equivalents do."""
    pool = Pool(SETTINGS)
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=0)
    rows = list(range(0, len(SETTINGS), 3))
    campaign.attach_many([(row, -((float(SETTINGS[row, 0]) - 70) ** 2) / 100) for row in rows])
    model = campaign.model()
    assert any(getattr(k, "has_lengthscale", False) for k in model.posterior.kernel.modules())
    mean, _ = model.predict(pool.scaled.rows(range(len(pool))))
    truth = -((SETTINGS[:, 0].double() - 70) ** 2) / 100
    assert (mean - truth).abs().max() < 1.0
    torch.testing.assert_close(model.x, pool.scaled.rows(rows))


def test_a_model_sees_numbers_between_0_and_1_over_the_whole_pool():
    pool = Pool(torch.tensor([[20.0, 7.0, -1e6], [120.0, 7.0, 1e6], [45.0, 7.0, 0.0]]), chunk_size=2)
    unit = torch.tensor([[0, 0, 0], [1, 0, 1], [0.25, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(pool.scaled.rows([0, 1, 2]), unit)
    torch.testing.assert_close(torch.cat([part for _, part in pool.scaled.chunks()]), unit)
    torch.testing.assert_close(pool.features(pool.places(torch.tensor([2]))), unit[2:])
    torch.testing.assert_close(
        pool.features([Place(x=(70.0, 8.0, 2e6))]), torch.tensor([[0.5, 1, 1.5]]).double()
    )
    assert pool.scaled.scaled is pool.scaled
    assert pool.rows([1]).tolist() == [[120.0, 7.0, 1e6]]


FRAME = pd.DataFrame(
    {
        "temperature": [20, 60, 60, 100, 20, 60],
        "base": ["a", "b", "c", "a", "b", "c"],
        "dry": [True, False, True, True, False, False],
    }
)


def test_texts_in_a_data_frame_are_categories(tmp_path):
    pool = Pool(FRAME, units={"temperature": "°C"})
    assert (pool.names, pool.kind, pool.blocks) == (
        ["temperature", "base", "dry"],
        "numbers",
        ((1, 2, 3), (4,)),
    )
    assert pool.rows([1]).tolist() == [[60.0, 0.0, 1.0, 0.0, 0.0]]
    place = pool.place({"base": "b", "dry": False, "temperature": 60})
    assert place == pool.place([60, "b", False]) == pool.place(1)
    assert pool.cells(place) == [60, "b", False]
    with pytest.raises(InputError, match=r"'base' holds one of 'a', 'b', 'c'; got 'd'"):
        pool.place([60, "d", False])
    with pytest.raises(InputError, match="temperature, base, dry; got columns base"):
        pool.place({"base": "b"})
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=0, num_initial=2)
    for trial in campaign.ask(4):
        campaign.tell(trial.id, float(trial.index))
    assert len({trial.index for trial in campaign.ask(2)} | {t.index for t in campaign.results()}) == 6


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([f"name {i}" for i in range(6)], "'x' of the pool holds 6 different texts in 6 rows: names"),
        (["a", "b", None, "a", "b", "a"], "'x' of the pool holds (None|nan) in row 2"),
        (["a"] * 6, "same value in every row"),
    ],
)
def test_columns_that_are_no_categories_are_refused(column, message):
    with pytest.raises(SggpError, match=message):
        Pool(FRAME.assign(x=column))


def test_names_of_columns():
    pool = Pool(SETTINGS, names=["temperature", "equivalents"], units={"temperature": "°C"})
    assert pool.cells(pool.place(3)) == [20, 4]
    assert pool.place({"equivalents": 4, "temperature": 20}).index == 3
    assert pool.units == {"temperature": "°C"}
    with pytest.raises(ShapeError, match="2 different ones"):
        Pool(SETTINGS, names=["a", "a"])
    with pytest.raises(InputError, match="no column 'c'"):
        Pool(SETTINGS, names=["a", "b"], units={"c": "g"})
    with pytest.raises(InputError, match="names already"):
        Pool(FRAME, names=["a", "b", "c"])


COUNTS = torch.tensor([[1, 0], [0, 2], [1, 0], [3, 3], [0, 2]], dtype=torch.uint8)


def test_what_a_candidate_is_does_not_depend_on_its_row_or_type():
    pool = Pool(COUNTS)
    order = torch.tensor([3, 4, 0, 1, 2])
    moved = Pool(COUNTS[order].long(), kind="counts")
    assert moved.keys(range(5)) == [pool.key(row) for row in order.tolist()]
    assert Pool(COUNTS.double()).keys(range(5)) == pool.keys(range(5))
    assert pool.find([pool.key(3), "?", pool.key(4)]).tolist() == [3, -1, 1]
    assert json.loads(json.dumps(pool.keys([0]))) == pool.keys([0])
    floats = Pool([[0.0, 1.5], [-0.0, 1.5], [1e-300, 1.5]])
    assert floats.capacity == 2
    with pytest.raises(InputError, match="rows holds row 5"):
        pool.key(5)


def test_texts_are_keys_where_there_are_any():
    texts = ["CCO", "CO", "OCC", "C", "CN"]
    canonical = ["CCO", "CO", "CCO", "C", "CN"]
    pool = Pool(Library(COUNTS, smiles=texts, canonical=canonical, ids=list("abcde")))
    assert pool.key(2) == "CCO"
    assert pool.find(["CCO", "CN", "OCC"]).tolist() == [0, 4, -1]
    assert pool.capacity == 4  # equal fingerprints of different molecules are no twins
    assert Pool(Library(COUNTS, ids=list("abcde"))).key(1) == "id:b"


def test_twins_are_never_both_proposed_nor_those_of_known_rows(tmp_path):
    values = torch.tensor([5.0, 4.0, 5.0, 1.0, 4.0])

    def function(points):
        return torch.where(points[..., 0] == 1, 5.0, torch.where(points[..., 1] == 2, 4.0, 1.0)).double()

    pool = Pool(COUNTS)
    rule = ThompsonSampling(pool, 2)
    posterior = Known(Functions([function, function]))
    assert rule.suggest(posterior, generator=0).tolist() == [0, 1]
    assert rule.suggest(posterior, exclude=[2], generator=0).tolist() == [1, 3]
    assert pool.capacity == 3
    with pytest.raises(InputError, match="only 3 rows"):
        ThompsonSampling(pool, 4)
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=0, num_initial=1)
    campaign.attach(4, float(values[4]))
    rest = campaign.ask(2)
    assert {trial.index for trial in rest} == {0, 3}
    with pytest.raises(InputError, match="only 0 rows"):
        campaign.ask(1)


def test_features_of_a_row_are_that_row():
    pool = Pool(COUNTS)
    assert pool.place([3, 3]) == pool.place(3)
    outside = pool.place([7, 7])
    assert (outside.index, outside.x) == (None, (7.0, 7.0))
    assert outside.key not in pool.keys(range(5))


def test_categories_of_a_frame_share_a_length_scale():
    frame = pd.concat([FRAME] * 3, ignore_index=True).assign(temperature=np.arange(18) * 5.0)
    pool = Pool(frame).scaled
    x = pool.rows(range(18))
    y = x[:, 0] + 2 * x[:, 2]
    model = fit_surrogate(x, y, num_samples=1, blocks=pool.blocks, generator=0)
    kernels = model.posterior.kernel.modules()
    scales = next(k.lengthscale for k in kernels if getattr(k, "has_lengthscale", False)).flatten()
    assert float(scales[1:4].max()) == pytest.approx(float(scales[1:4].min()))
    mean, _ = model.predict(x)
    assert (mean - y).abs().max() < 0.2
