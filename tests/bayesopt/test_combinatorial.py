"""The space of products: its search against brute force, and campaigns over it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sggp.bayesopt import Campaign, Combinatorial, Effort, Pool
from sggp.bayesopt.combinatorial.marginals import additive_effects, best_combinations
from sggp.bayesopt.combinatorial.search import Memory
from sggp.bayesopt.rules import RULES, make_rule
from sggp.bayesopt.surrogate import fit_surrogate
from sggp.errors import DtypeError, Exhausted, InputError
from sggp.molecules import ProductFilter, Reaction, ReactionLibrary, SmilesFingerprinter
from tests.molecules.reagents import AMIDE, quinazolinones

pytest.importorskip("rdkit")
SMALL = SmilesFingerprinter(fp_size=256, n_jobs=1)
SIZE = 16
"""Reagents in each of three lists, where all products are looked at."""
POOL_RULES = sorted(set(RULES) - {"hypervolume"})


def space(size: int = 5, **options: object) -> Combinatorial:
    return Combinatorial(quinazolinones(size), fingerprinter=SMALL, **options)


def value(smiles: str) -> float:
    """Something that depends on all three components."""
    return (
        smiles.count("C") - 0.5 * smiles.count("c") + 3 * smiles.count("F") - 2 * abs(smiles.count("O") - 2)
    )


@pytest.fixture(scope="module")
def everything() -> Combinatorial:
    """All products, made once."""
    whole = space(SIZE)
    whole.library.make(np.arange(len(whole)))
    return whole


def fitted(everything: Combinatorial, num_samples: int) -> object:
    rows = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:60]
    y = torch.tensor([value(name) for name in everything.keys(rows)], dtype=torch.float64)
    return fit_surrogate(everything.rows(rows), y, num_samples=num_samples, generator=0).posterior


@pytest.fixture(scope="module")
def model(everything: Combinatorial) -> object:
    return fitted(everything, 64)


# the search ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", POOL_RULES)
def test_a_search_finds_what_brute_force_finds(everything: Combinatorial, rule: str) -> None:
    over_all = make_rule(rule, Pool(everything.library.products), 4)
    posterior = fitted(everything, over_all.num_samples)  # so that a rule has no paths to choose among
    wanted = everything.keys(everything.library.numbers[over_all.suggest(posterior, generator=1)])
    searched = space(SIZE, effort=Effort(products=SIZE**3, rounds=60, bases=8))
    found = searched.keys(make_rule(rule, searched, 4).suggest(posterior, generator=1))
    assert len(searched.library.products) < 0.9 * SIZE**3
    # a path may have a second summit that no exchange of one reagent leads to; the top k of top-k is another one
    least = {"thompson": 3, "tempered": 3, "top-k": 1}.get(rule, 4)
    assert len(set(wanted) & set(found)) >= least


def test_a_search_looks_at_a_small_part_and_says_so(model: object) -> None:
    searched = space(SIZE, effort=Effort(products=300, rounds=2, bases=1, random=50))
    make_rule("greedy", searched, 3).suggest(model, generator=0)
    report = searched.last_search
    assert report is not None
    assert report.looked_at == len(searched.library.products) <= 50 + 2 * (3 * (SIZE - 1) + 125)
    assert report.bases == 2
    assert not report.converged
    assert f"{report.looked_at:,} products looked at" in str(report)
    assert "the effort was spent" in str(report)


def test_more_effort_finds_no_worse(model: object) -> None:
    best = []
    effort = Effort(products=1, rounds=1, bases=1, random=2)
    for _ in range(4):
        searched = space(SIZE, effort=effort)
        best.append(float(make_rule("greedy", searched, 1).choose(model, generator=0).values[0]))
        effort = effort.doubled()
    assert best[0] < best[-1]
    assert best == sorted(best)


def test_the_gap_is_what_twice_the_effort_finds(model: object) -> None:
    hasty = space(SIZE, effort=Effort(products=10, rounds=1, bases=1, random=10))
    once, twice = hasty.gap(make_rule("greedy", hasty, 2), model, generator=0)
    assert once < twice
    thorough = space(SIZE, effort=Effort(products=SIZE**3, rounds=60))
    rule = make_rule("greedy", thorough, 2)
    once, twice = thorough.gap(rule, model, generator=0)
    assert once == pytest.approx(twice, abs=1e-9)
    assert once == pytest.approx(float(rule.choose(model, generator=0).values.mean()), abs=1e-9)


def test_what_is_excluded_or_pending_is_not_proposed(model: object) -> None:
    searched = space(6)
    rule = make_rule("ucb", searched, 5)
    first = rule.suggest(model, generator=0)
    second = rule.suggest(model, exclude=first, generator=0)
    third = rule.suggest(model, exclude=first, pending=second, generator=0)
    assert len({*first.tolist(), *second.tolist(), *third.tolist()}) == 15


@pytest.mark.slow  # test_rules.py fills batches of distinct places
def test_a_batch_of_a_thousand(model: object) -> None:
    found = make_rule("ucb", space(SIZE, effort=Effort(products=500)), 1000).suggest(model, generator=0)
    assert len(set(found.tolist())) == 1000


def test_where_neighbours_are_many_contributions_rank_them(model: object) -> None:
    effort = Effort(products=SIZE**3, rounds=40, bases=8)
    whole, cut = space(SIZE, effort=effort), space(SIZE, effort=replace(effort, cut=12))
    best = [make_rule("greedy", one, 12).choose(model, generator=0) for one in (whole, cut)]
    assert whole.last_search.cut_accuracy is None
    assert cut.last_search.cut_accuracy > 0.5
    assert len(cut.library.products) < 0.8 * len(whole.library.products)
    assert float(best[1].values[0]) == pytest.approx(float(best[0].values[0]), rel=1e-6)


def test_effects_of_reagents_are_those_of_a_sum() -> None:
    draw = np.random.default_rng(0)
    sizes = (6, 9, 4)
    rows = np.stack(
        [draw.integers(size - 1, size=4000) for size in sizes], axis=1
    )  # the last ones have no product
    truth = [draw.standard_normal(size) for size in sizes]
    values = 7 + sum(own[column] for own, column in zip(truth, rows.T, strict=True))
    effects = additive_effects(values, rows, sizes)
    for own, found in zip(truth, effects, strict=True):
        differences = found[:-1] - found[:-1].mean() - (own[:-1] - own[:-1].mean())
        assert np.abs(differences).max() < 0.02  # of one: 1 / 450 of it is shrunk away, and sweeps end
        assert found[-1] == 0.0
    best = best_combinations([own[:-1] for own in effects], 2)
    assert best.shape == (8, 3)
    assert best[0].tolist() == [int(own[:-1].argmax()) for own in truth]


def test_a_search_begins_with_the_reagents_that_the_model_likes(
    model: object, everything: Combinatorial
) -> None:
    once = space(SIZE, effort=Effort(products=1, rounds=1, bases=1, random=200))
    make_rule("greedy", once, 1).suggest(model, generator=0)
    first = once.library.numbers[:200]
    recipes = np.asarray([recipe.rows for recipe in once.library.recipes(first)])
    means = model.mean_and_variance(everything.rows(torch.from_numpy(first)))[0].detach().numpy()
    wanted = best_combinations(additive_effects(means, recipes, (SIZE, SIZE, SIZE)), 4)
    assert set(once.library.number(0, wanted)) <= set(once.library.numbers)


def test_of_many_products_the_most_promising_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sggp.bayesopt.combinatorial.search._AT_ONCE", 3)
    memory = Memory(space(2).library)
    memory.note(np.arange(6), np.asarray([0.0, 5.0, 1.0, 4.0, 2.0, 3.0]))
    assert memory.most_promising(6).tolist() == [1, 3, 5]
    assert memory.most_promising(8).tolist() == [1, 6, 7]  # never looked at comes first


def test_too_few_products_are_refused_with_the_reason(model: object) -> None:
    few = Combinatorial(
        quinazolinones(3), fingerprinter=SMALL, filters=ProductFilter(molecular_weight=(None, 215))
    )
    with pytest.raises(Exhausted, match=r"molecular weight is above 215"):
        make_rule("greedy", few, 20).suggest(model, generator=0)


# places -------------------------------------------------------------------------------------------------------------


def test_a_product_is_named_by_smiles_number_or_reagents() -> None:
    own = space(4)
    place = own.place(37)
    assert place.x is not None
    assert place.x[0] == "quinazolinone"
    assert place.key == place.label
    assert own.place(" + ".join(map(str, place.x[1:]))) == place
    assert own.place(place.x) == place
    assert own.place(place.label) == place
    names = dict(zip(own.names, own.cells(place), strict=True))
    assert names["reagent_2"] == place.x[2]
    assert names["reagent_3_smiles"] in own.library.reactions[0].components[2].smiles


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("0 + 0", "has 3 reagents; got 2 ids"),
        ("0 + no + 0", "component 2 of quinazolinone has no reagent 'no'"),
        ("C(C", "is no molecule"),
        (10**9, "numbers 0 …"),
    ],
)
def test_what_names_no_product_is_refused(named: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        space(4).place(named)


@pytest.mark.parametrize(("given", "kind"), [(3, DtypeError), ([], DtypeError), (["CCO"], DtypeError)])
def test_what_is_no_reaction_is_refused(given: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="reactions must be"):
        Combinatorial(given)


def test_a_library_has_its_own_filters() -> None:
    with pytest.raises(InputError, match="has its filters"):
        Combinatorial(ReactionLibrary(quinazolinones(2)), filters=ProductFilter())
    with pytest.raises(DtypeError, match="effort must be an Effort"):
        Combinatorial(quinazolinones(2), effort=3)


# campaigns ------------------------------------------------------------------------------------------------------------


def told(campaign: Campaign, q: int) -> list[str]:
    trials = campaign.ask(q)
    campaign.tell_many([(trial.id, value(trial.label)) for trial in trials])
    return [trial.label for trial in trials]


def test_a_campaign_goes_on_where_it_was_whatever_the_lists(tmp_path: object) -> None:
    unbroken = Campaign(space(6), tmp_path / "a.db", maximize=True, seed=0, num_initial=8)
    broken = Campaign(space(6), tmp_path / "b.db", maximize=True, seed=0, num_initial=8)
    one, two = [], []
    for round_ in range(3):
        one += told(unbroken, 8 if round_ == 0 else 3)
        broken = Campaign(space(6), tmp_path / "b.db")
        two += told(broken, 8 if round_ == 0 else 3)
    assert len(set(one)) == 14
    assert one[:8] == two[:8]
    assert set(two) == {t.label for t in Campaign(space(6), tmp_path / "b.db").results()}
    # more reagents, so that every number is another one: the trials are the same molecules
    grown = Campaign(space(9), tmp_path / "b.db")
    assert [trial.label for trial in grown.results()] == two
    assert not set(told(grown, 5)) & set(two)
    reagents = grown.space.reagents(grown.results()[0])
    assert reagents is not None
    assert reagents[0] == "quinazolinone"
    assert all(reagents[2])


def test_another_reaction_file_leaves_the_trials_readable(tmp_path: object) -> None:
    campaign = Campaign(space(4), tmp_path / "a.db", maximize=True, seed=0, num_initial=4)
    labels = told(campaign, 4)
    acids, amines = ["CC(=O)O", "CCC(=O)O"], ["NC", "NCC"]
    for name in ("renamed", "quinazolinone"):  # the second with two components where there were three
        other = Combinatorial(Reaction(AMIDE, [acids, amines], name), fingerprinter=SMALL)
        again = Campaign(other, tmp_path / "a.db")
        assert [trial.label for trial in again.results()] == labels
        cells = [other.cells(trial) for trial in again.results()]
        assert all(len(row) == len(other.names) for row in cells)
        assert [row[0] for row in cells] == labels
    assert told(again, 1)[0] not in labels


def test_the_same_start_asks_for_the_same(tmp_path: object) -> None:
    asked = []
    for name in ("a.db", "b.db"):
        campaign = Campaign(space(6), tmp_path / name, maximize=True, seed=3, num_initial=6)
        asked.append([told(campaign, 6), told(campaign, 4), told(campaign, 4)])
    assert asked[0] == asked[1]


def test_failures_are_left_out_and_measurements_from_elsewhere_count(tmp_path: object) -> None:
    campaign = Campaign(space(6), tmp_path / "a.db", maximize=True, seed=0, num_initial=6)
    campaign.attach("CC(=O)Nc1ccccc1", 3.0)
    first = campaign.ask(10)
    for trial in first[::5]:
        campaign.fail(trial.id, "did not react")
    campaign.tell_many([(t.id, value(t.label)) for t in campaign.pending])
    campaign.attach(first[0].x, 2.0)  # by its reagents
    second = campaign.ask(10)
    assert not {t.label for t in first} & {t.label for t in second}
    assert "mean plus 2 std" in second[0].why
    assert campaign.results()[0].index >= len(campaign.space)


def test_two_reactions_one_product_one_trial(tmp_path: object) -> None:
    chloride = "[C:1](=[O:2])Cl.[NX3;H2:3][#6:4]>>[C:1](=[O:2])[N:3][#6:4]"
    amines = ["NC", "NCC", "NC1CC1", "NCCO"]
    both = [
        Reaction(AMIDE, [["CC(=O)O", "CCC(=O)O"], amines], "a"),
        Reaction(chloride, [["CC(=O)Cl", "CCC(=O)Cl"], amines], "b"),
    ]
    campaign = Campaign(
        Combinatorial(both, fingerprinter=SMALL), tmp_path / "a.db", maximize=True, num_initial=4
    )
    labels = told(campaign, 4) + told(campaign, 4)
    assert len(set(labels)) == 8
    with pytest.raises(Exhausted):
        campaign.ask(1)


def test_a_component_of_one_reagent(tmp_path: object) -> None:
    single = Reaction(AMIDE, [["CC(=O)O"], [f"N{'C' * n}" for n in range(1, 12)]])
    campaign = Campaign(
        Combinatorial(single, fingerprinter=SMALL), tmp_path / "a.db", maximize=True, num_initial=4
    )
    assert len(set(told(campaign, 4) + told(campaign, 7))) == 11
