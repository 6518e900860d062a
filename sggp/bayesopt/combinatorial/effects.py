"""Which reagents make good products, by the model, and how sure that is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.combinatorial.space import Combinatorial
from sggp.bayesopt.surrogate import Surrogate
from sggp.bayesopt.trials import Trial
from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.molecules.reactions.library import NO_PRODUCT
from sggp.random import as_generator
from sggp.typing import Seed

_LEAST_PATHS = 16
_PANEL = 16
_LEAST_PANEL = 4


@dataclass(frozen=True)
class ReagentEffect:
    """What a reagent brings, as the model sees it.

    Attributes:
        reaction, component: where it is used; 1 is the first component.
        id, smiles: of the reagent.
        measured: how many measured products hold it.
        mean: how much larger the value of its products is than that of the average reagent's, in the values' units.
        std: standard deviation of that, from joint posterior samples.
    """

    reaction: str
    component: int
    id: str
    smiles: str
    measured: int
    mean: float
    std: float


def reagent_effects(
    model: Surrogate,
    space: Combinatorial,
    trials: Sequence[Trial],
    *,
    most: int = 1000,
    generator: Seed = None,
) -> list[ReagentEffect]:
    """The effect of each reagent that occurs in measured products.

    Of a reagent a of one component of a reaction, effect(a) = v(a) - mean of v over the reagents of that component,
    where v(a) is the average value of the products of a with each of a panel of combinations of partners, the same for
    all reagents of the component and drawn from the measured products. Products that cannot be made are left out.
    Effects are linear in the values of products, so that the posterior mean and joint samples give their mean and
    standard deviation; noise is no part of them.

    Args:
        model: fitted to the trials, with 16 sample paths at least; 64 tell standard deviations to 10 %.
        space: where the products are.
        trials: of the campaign; only measured products of the space's reactions are used.
        most: products to be made at most, about. Where the reagents are too many for it, those of the most measured
            products are kept.
        generator: chooses the panels.

    Returns:
        Largest mean first. Empty where fewer than two reagents of every component were measured.

    Raises:
        InputError: too few sample paths.

    Cost: `most` products made, and the posterior with its samples there.
    """
    most = whole_number(most, "most")
    paths = int(model.posterior.num_samples)
    if paths < _LEAST_PATHS:
        raise InputError(
            f"the model carries {paths} sample paths; fit it with {_LEAST_PATHS} or more, best 64."
        )
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=as_generator(generator))))
    rows = _measured_rows(space, trials)
    slots = sum(own.shape[1] for own in rows.values())
    out: list[ReagentEffect] = []
    for reaction, own in rows.items():
        for place in range(own.shape[1]):
            out += _of_component(model, space, (reaction, place), own, draw, max(most // slots, 1))
    return sorted(out, key=lambda effect: -effect.mean)


def _measured_rows(space: Combinatorial, trials: Sequence[Trial]) -> dict[int, np.ndarray]:
    """(n, components) rows of the reagents of measured products, by reaction."""
    library = space.library
    places = library.positions([t.index for t in trials if t.value is not None and t.index is not None])
    numbers = library.numbers[places[places != NO_PRODUCT]]
    found = defaultdict(list)
    for recipe in library.recipes(numbers[numbers < len(space)]):
        found[recipe.reaction].append(recipe.rows)
    return {reaction: np.asarray(own, dtype=np.int64) for reaction, own in sorted(found.items())}


def _of_component(
    model: Surrogate,
    space: Combinatorial,
    where: tuple[int, int],
    rows: np.ndarray,
    draw: np.random.Generator,
    most: int,
) -> list[ReagentEffect]:
    reaction, place = where
    counts = Counter(rows[:, place].tolist())
    kept = [row for row, _ in counts.most_common(max(most // _LEAST_PANEL, 2))]
    if len(kept) < 2:
        return []
    partners = np.asarray(
        sorted({tuple(own) for own in np.delete(rows, place, axis=1).tolist()}), dtype=np.int64
    )
    size = min(_PANEL, len(partners), max(most // len(kept), 1))
    panel = partners[np.sort(draw.choice(len(partners), size, replace=False))]
    combined = np.insert(np.tile(panel, (len(kept), 1)), place, np.repeat(kept, size), axis=1)
    positions = space.library.make(space.library.number(reaction, combined)).reshape(len(kept), size)
    made = positions != NO_PRODUCT
    some = made.any(1)
    if some.sum() < 2:
        return []
    kept = [row for row, there in zip(kept, some, strict=True) if there]
    mean, std = _contrasts(model, space, positions[some])
    own = space.library.reactions[reaction]
    parts = own.components[place]
    return [
        ReagentEffect(own.name, place + 1, parts.ids[row], parts.smiles[row], counts[row], m, s)
        for row, m, s in zip(kept, mean.tolist(), std.tolist(), strict=True)
    ]


def _contrasts(model: Surrogate, space: Combinatorial, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """(k,) means and standard deviations of each row's average less the average of them, in the values' units."""
    products, member = np.unique(positions[positions != NO_PRODUCT], return_inverse=True)
    average = torch.zeros(len(positions), len(products), dtype=torch.float64)
    row, _ = np.nonzero(positions != NO_PRODUCT)
    average.index_put_(
        (torch.from_numpy(row), torch.from_numpy(member)), torch.tensor(1.0).double(), accumulate=True
    )
    average /= average.sum(1, keepdim=True)
    contrast = model.scale * (average - average.mean(0))
    features = space.library.products[products]
    with torch.no_grad():
        mean = model.posterior.mean(features).double()
        paths = model.posterior.samples(features).double()
    return contrast @ mean, (contrast @ paths.T).std(1)
