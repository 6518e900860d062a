"""A space of products of reactions, for campaigns and rules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.combinatorial.effort import Effort, SearchReport
from sggp.bayesopt.combinatorial.search import Exploration, Explored, Memory
from sggp.bayesopt.maximise import Look, Paths, as_indices, maximise_pool
from sggp.bayesopt.rules.base import Rule
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import whole_number
from sggp.errors import DtypeError, Exhausted, InputError
from sggp.molecules.reactions.filters import ProductFilter
from sggp.molecules.reactions.library import ReactionLibrary
from sggp.molecules.reactions.reaction import read_reactions
from sggp.random import as_generator, streams
from sggp.typing import Seed

_TRIES = 50
_JOINT = " + "


class Combinatorial:
    """Products of reactions: every combination of reagents is a candidate, and none is listed.

    Candidates are numbered by reaction and reagents, see `ReactionLibrary`; products are made by RDKit, and
    fingerprinted, when a search comes to them. A trial is bound to its product's canonical SMILES; the ids of its
    reagents are stored with it.

    Args:
        reactions: the path of a reaction file (`read_reactions`), one or more `Reaction`, or a `ReactionLibrary`, which
            has all other settings but `effort`.
        filters: which products are let through; those of the file where None.
        effort: how hard to look for the best products in each search.
        options: further arguments of `ReactionLibrary`: fingerprinter, outcomes, cache, progress.

    Raises:
        DtypeError, InputError, DataFileError: as `Reaction`, `ReactionLibrary` and `read_reactions`.

    Example:
        >>> from sggp.molecules import Reaction
        >>> amide = "[#6:1]C(=O)O.[#6:2]-[NH2]>>[#6:1]C(=O)N[#6:2]"
        >>> acids, amines = ["CC(=O)O", "c1ccccc1C(=O)O"], ["NC", "NCC", "NC1CC1"]
        >>> len(Combinatorial(Reaction(amide, [acids, amines])))
        6
    """

    kind = "counts"
    blocks: tuple[tuple[int, ...], ...] = ()

    def __init__(
        self,
        reactions: Any,
        *,
        filters: ProductFilter | None = None,
        effort: Effort | None = None,
        **options: Any,
    ) -> None:
        if isinstance(reactions, str | os.PathLike):
            reactions, given = read_reactions(reactions)
            filters = ProductFilter.from_json(given) if filters is None else filters
        if isinstance(reactions, ReactionLibrary):
            if filters is not None or options:
                raise InputError("a ReactionLibrary has its filters and settings: give none beside it.")
            self.library = reactions
        else:
            self.library = ReactionLibrary(reactions, filters=filters, **options)
        if effort is not None and not isinstance(effort, Effort):
            raise DtypeError(f"effort must be an Effort, got {type(effort).__name__}.")
        self.effort = Effort() if effort is None else effort
        self.last_search: SearchReport | None = None
        self._memory = Memory(self.library)

    # what it is -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.library)

    @property
    def capacity(self) -> float:
        """How many combinations and molecules from elsewhere there are; some give one product, and some none."""
        return float(len(self) + int((self.library.numbers >= len(self)).sum()))

    @property
    def num_initial(self) -> int:
        return 20

    @property
    def names(self) -> list[str]:
        most = max(len(one.sizes) for one in self.library.reactions)
        pairs = [(f"reagent_{i}", f"reagent_{i}_smiles") for i in range(1, most + 1)]
        return ["smiles", "reaction", *(name for pair in pairs for name in pair)]

    @property
    def scaled(self) -> Combinatorial:
        return self

    @property
    def parts(self) -> dict[str, tuple[int, int]] | None:
        """The columns of each fingerprint where there are several side by side."""
        settings = self.library.settings
        return None if settings.parts is None else settings.ranges

    def describe(self) -> dict[str, Any]:
        """What identifies this space in a stored campaign."""
        reactions = [
            {"name": one.name, "smarts": one.smarts, "sizes": list(one.sizes), "digest": one.digest}
            for one in self.library.reactions
        ]
        return {"kind": "reactions", "reactions": reactions, "filters": self.library.filters.plain()}

    # products -------------------------------------------------------------------------------------------------------

    def rows(self, rows: Any) -> Tensor:
        """(k, d) fingerprints of products by number.

        Raises:
            InputError: a combination that gives no product.
        """
        numbers = as_indices(rows, None, what="rows").numpy()
        positions = self.library.positions(numbers)
        if (positions < 0).any():
            bad = int(numbers[positions < 0][0])
            raise InputError(f"combination {bad} gives no product.")
        return self.library.products[positions] if len(positions) else self.library.products[:0]

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pairs (first position, fingerprints) over the products looked at so far."""
        for part, features in self.library.products.chunks(
            8192 if size is None else whole_number(size, "size")
        ):
            yield part.start, features

    def keys(self, rows: Any) -> list[str]:
        """Canonical SMILES of products by number, empty where there is none."""
        positions = self.library.positions(as_indices(rows, None, what="rows").numpy()).tolist()
        return [str(self.library.products.canonical[place]) if place >= 0 else "" for place in positions]  # type: ignore[index]

    def find(self, keys: Sequence[str]) -> Tensor:
        """(k,) int64: the number of each canonical SMILES; one that no search came to gets a number of its own."""
        return torch.from_numpy(self.library.add(list(keys)) if keys else np.empty(0, dtype=np.int64))

    def closed(self, rows: Any) -> Tensor:
        """These rows: products have no twins here."""
        return torch.unique(as_indices(rows, None, what="rows"))

    def label(self, row: int) -> str:
        """Canonical SMILES of a product."""
        return self.keys([row])[0]

    def reagents(self, place: Place | Trial) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
        """The reaction, and ids and SMILES of the reagents of a trial; None for a molecule from elsewhere.

        Where the lists have changed so that its ids make another product now, the SMILES are empty.
        """
        names = tuple(str(part) for part in place.x or ())
        if names:
            own = next((one for one in self.library.reactions if one.name == names[0]), None)
            if own is None or len(own.components) != len(names) - 1:  # the reaction file is another one now
                return names[0], names[1:], ("",) * (len(names) - 1)
            rows = [c.row_of.get(name, -1) for c, name in zip(own.components, names[1:], strict=True)]
            if min(rows) >= 0 and not self._may_be(place.key, self.library.reactions.index(own), rows):
                return names[0], names[1:], ("",) * len(rows)
            smiles = (c.smiles[row] if row >= 0 else "" for c, row in zip(own.components, rows, strict=True))
            return names[0], names[1:], tuple(smiles)
        if place.index is None or place.index >= len(self):
            return None
        recipe = self.library.recipes([place.index])[0]
        own = self.library.reactions[recipe.reaction]
        return own.name, own.ids(recipe.rows), own.reagents(recipe.rows)

    def _may_be(self, key: str | None, reaction: int, rows: Sequence[int]) -> bool:
        """Whether a combination gives the product of this key; also where it gives none today, or there is no key."""
        number = int(self.library.number(reaction, [rows])[0])
        found = self.keys(torch.arange(number, number + self.library.outcomes))
        return key is None or key in found or not any(found)

    # what campaigns ask -----------------------------------------------------------------------------------------------

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """Products of random combinations among those of no trial.

        Raises:
            Exhausted: none are found.
        """
        known = {trial.key for trial in trials}
        draw = np.random.default_rng([seed, int(torch.randint(2**31, (1,), generator=generator))])
        found: dict[str, int] = {}
        for _ in range(_TRIES):
            some = draw.integers(len(self), size=count - len(found) + 8)
            if len(self) <= len(some):
                some = draw.permutation(len(self))
            positions = self.library.make(some)
            for key, place in zip(self.keys(some), positions.tolist(), strict=True):
                if place >= 0 and key not in known and len(found) < count:
                    found.setdefault(key, int(self.library.numbers[place]))
            if len(found) >= count:
                return self.places(torch.tensor(list(found.values())))
        if not found:
            reasons = "; ".join(f"{n:,} {why}" for why, n in self.library.missing.most_common(3))
            raise Exhausted(
                f"no new product was found among random combinations: {reasons or 'all are known'}."
            )
        return self.places(torch.tensor(list(found.values())))

    def place(self, x: Any) -> Place:
        """A product by SMILES, by number, or by the ids of its reagents, as a list or joined by " + ".

        Ids may have the name of the reaction before them; they need it where there are several reactions. A SMILES that
        is no product that was looked at is kept as a molecule from elsewhere.

        Raises:
            InputError: none of these, an unknown id, or reagents that give no product.
        """
        if isinstance(x, Place):
            x = x.label if x.label is not None else list(x.x or ()) if x.x is not None else x.index
        if isinstance(x, str):
            ids = x.split(_JOINT)
            if len(ids) == 1:
                return self.places(self.find([x]))[0]
            return self.place(self._number(ids))
        if isinstance(x, list | tuple):
            return self.place(self._number([str(one) for one in x]))
        number = whole_number(x, "a combination's number", least=0)
        if self.library.make([number])[0] < 0:
            found = self.reagents(Place(index=number))
            named = "" if found is None else f": {_JOINT.join(found[1])}"
            raise InputError(f"combination {number} gives no product{named}.")
        return self.places(torch.tensor([number]))[0]

    def recall(self, places: Sequence[Place | Trial]) -> None:
        """Look at the products that places name by the ids of their reagents, so that `find` knows these reagents.

        Ids that are not, or no longer, in the lists are passed over.
        """
        numbers = []
        for place in places:
            with suppress(InputError):
                numbers.append(self._number([str(name) for name in place.x or ()]))
        self.library.make(numbers)

    def _number(self, ids: list[str]) -> int:
        reactions = self.library.reactions
        named = [number for number, one in enumerate(reactions) if ids and one.name == ids[0]]
        own = named[0] if named else 0
        if not named and len(reactions) > 1:
            raise InputError(f"begin with the reaction, one of {', '.join(one.name for one in reactions)}.")
        components, given = reactions[own].components, ids[1:] if named else ids
        if len(given) != len(components):
            raise InputError(f"{reactions[own].name} has {len(components)} reagents; got {len(given)} ids.")
        rows = [component.row_of.get(name, -1) for component, name in zip(components, given, strict=True)]
        for number, (row, name) in enumerate(zip(rows, given, strict=True), start=1):
            if row < 0:
                raise InputError(f"component {number} of {reactions[own].name} has no reagent {name!r}.")
        return int(self.library.number(own, [rows])[0])

    def places(self, choice: Tensor) -> list[Place]:
        """Products by number, with the reaction and the ids of the reagents as `x`."""
        out = []
        for number, key in zip(choice.tolist(), self.keys(choice), strict=True):
            found = self.reagents(Place(index=number))
            x = None if found is None else (found[0], *found[1])
            out.append(Place(index=number, x=x, label=key, key=key))
        return out

    def features(self, trials: Sequence[Any]) -> Tensor:
        """(n, d) fingerprints of trials or places."""
        return self.rows([trial.index for trial in trials])

    def taken(self, trials: Sequence[Trial]) -> Tensor:
        """The numbers of the trials' products, each once."""
        return torch.unique(torch.tensor([t.index for t in trials if t.index is not None], dtype=torch.long))

    def cells(self, trial: Trial | Place) -> list[Any]:
        found = self.reagents(trial)
        cells = [trial.label, *([""] if found is None else [found[0]])]
        for name, smiles in () if found is None else zip(found[1], found[2], strict=True):
            cells += [name, smiles]
        return [*cells, *[""] * len(self.names)][: len(self.names)]

    def looked_at(self, *numbers: Any) -> tuple[Pool, list[Tensor]]:
        """Everything looked at so far as a pool, and the rows (k,) in it of each group of numbers."""
        found = [torch.from_numpy(self.library.positions(some)) for some in numbers]
        return Pool(self.library.products), found

    # choosing -------------------------------------------------------------------------------------------------------

    def explore(self, rule: Any, posterior: Any, look: Look, generator: torch.Generator) -> Explored:
        """The rule's batch among everything that a search looks at; `last_search` says what it did.

        Cost: about `effort.products` products made, and the posterior at everything looked at, twice.
        """
        found = Exploration(self.library, self.effort, self._memory, rule, posterior, look, generator).run()
        self.last_search = found.report
        return found

    def gap(
        self, rule: Rule, posterior: Any, *, exclude: Any = (), generator: Seed = None
    ) -> tuple[float, float]:
        """The mean value of the rule's batch by a search, and by one of twice the effort from the same beginning.

        What the second is better by is what the search missed, at least; equal where its effort was enough. Both leave
        what they looked at to the next search.

        Args:
            rule: made for this space.
            posterior, exclude: as in `Rule.suggest`.
            generator: seed or generator.
        """
        pick, look = streams(as_generator(generator), "gap paths", "gap candidates")
        state, found = pick.get_state(), []
        for effort in (self.effort, self.effort.doubled()):
            pick.set_state(state)
            once = Look(rule.maximize, look, exclude=exclude)
            explored = Exploration(self.library, effort, self._memory, rule, posterior, once, pick).run()
            found.append(float(explored.values.mean()))
        return found[0], found[1]

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """The best product of each path among those looked at so far, none twice, and the paths' values there."""
        pool, numbers = Pool(self.library.products), self.library.numbers
        closed = np.concatenate([np.asarray(torch.as_tensor(rows)) for rows in (look.exclude, look.pending)])
        banned = torch.from_numpy(np.flatnonzero(np.isin(numbers, closed)))
        rows, values = maximise_pool(
            paths, pool, maximize=look.maximize, exclude=banned, progress=look.progress
        )
        return torch.from_numpy(numbers[rows.numpy()]), values
