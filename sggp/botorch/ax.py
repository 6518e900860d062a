"""Ax: its fit of a `PathwiseGPModel`, a surrogate of such models, and a generation node that draws from a pool.

    surrogate_spec    Ax's `SurrogateSpec` with `PathwiseGPModel` or a sibling, for Ax's own generators
    PoolNode          a generation node whose candidates are the rows of a table, such as a library of molecules

`PathwiseGPModel.construct_inputs`, which Ax calls, imports this module by itself: a `SurrogateSpec` of your own needs
nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sggp.botorch.columns.tasks import PathwiseMultiTaskGP
from sggp.botorch.model import PathwiseGPModel
from sggp.botorch.pool import PoolThompsonSampling
from sggp.errors import InputError, MissingExtra, ShapeError

try:
    from ax.exceptions.core import SearchSpaceExhausted
    from ax.generation_strategy.external_generation_node import ExternalGenerationNode
    from ax.generators.torch.botorch_modular.surrogate import (
        ModelConfig,
        SurrogateSpec,
        submodel_input_constructor,
    )
    from ax.generators.torch.botorch_modular.utils import fit_botorch_model
except ImportError as error:
    raise MissingExtra("sggp.botorch.ax needs Ax: pip install ax-platform") from error


@fit_botorch_model.register(PathwiseGPModel)
def _fit(model: PathwiseGPModel, mll_class: Any = None, mll_options: Any = None) -> None:
    """Learn the hyperparameters unless the constructor did. Ax's classes of marginal likelihoods are ignored."""
    model.custom_fit(None)


@submodel_input_constructor.register(PathwiseMultiTaskGP)
def _of_tasks(
    botorch_model_class: type[PathwiseMultiTaskGP], search_space_digest: Any, **given: Any
) -> dict[str, Any]:
    """What Ax gives any model, and the task parameter with its target, which it keeps for BoTorch's `MultiTaskGP`."""
    if len(search_space_digest.task_features) != 1:
        raise InputError(
            f"PathwiseMultiTaskGP needs one task parameter, got {len(search_space_digest.task_features)}: use "
            "surrogate_spec() where there is none."
        )
    (column,) = search_space_digest.task_features
    if column not in search_space_digest.target_values:
        raise InputError("the task parameter needs a target_value, the task that is to be optimised.")
    general = submodel_input_constructor.dispatch(PathwiseGPModel)
    inputs = general(
        botorch_model_class=botorch_model_class, search_space_digest=search_space_digest, **given
    )
    tasks = {
        "task_feature": column,
        "output_tasks": [int(search_space_digest.target_values[column])],
        "all_tasks": [int(task) for task in search_space_digest.discrete_choices[column]],
    }
    return {**tasks, **inputs}


def surrogate_spec(model: type[PathwiseGPModel] = PathwiseGPModel, **options: Any) -> SurrogateSpec:
    """Ax's `SurrogateSpec` of one model per outcome.

    Args:
        model: `PathwiseGPModel`; `PathwiseMixedGP` for unordered choices, with `Generators.BO_MIXED`, which keeps them;
            `PathwiseMultiFidelityGP` for a fidelity parameter from 0 to 1; `PathwiseMultiTaskGP` for a task parameter,
            of which the target task is optimised. Columns, fidelities and tasks are those of the search space.
        **options: arguments of the model but for data and transforms, such as `num_samples=256`.

    Example:
        >>> from sggp.botorch.ax import surrogate_spec
        >>> kwargs = {"surrogate_spec": surrogate_spec(num_samples=256)}  # of GeneratorSpec(BOTORCH_MODULAR, ...)
    """
    plain = (
        {} if model is PathwiseGPModel else {"input_transform_classes": None}
    )  # columns stay what they name
    config = ModelConfig(botorch_model_class=model, model_options=dict(options), name="sggp", **plain)
    return SurrogateSpec(model_configs=[config], allow_batched_models=False)


class PoolNode(ExternalGenerationNode):
    """Generates rows of a table, by Thompson sampling of one objective: each path in turn takes its best free row.

    The experiment has one integer parameter, the number of the row. Rows that have a trial are not proposed again,
    whatever became of it. Rows are picked while there are no data, too: at random.

    Args:
        features: the table (N, d), of numbers, or of counts or bits for a kernel on fingerprints; bytes are fine.
        parameter: name of the integer parameter, from 0 to N - 1.
        batch: candidates picked at a time; more are picked when Ax asks for more.
        seed: of everything random.
        name, transition_criteria: as in Ax's `GenerationNode`.
        **options: arguments of `PathwiseGPModel`.

    Raises:
        ShapeError: features is no table.

    Cost: of `PoolThompsonSampling`, once for every `batch` candidates or new data.
    """

    def __init__(
        self,
        features: Tensor,
        parameter: str = "row",
        *,
        batch: int = 8,
        seed: int = 0,
        name: str = "sggp_pool",
        transition_criteria: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, should_deduplicate=False, transition_criteria=transition_criteria)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise ShapeError("features must be a tensor (N, d), one row for each candidate.")
        self._features, self._parameter, self._options = features, parameter, options
        self._batch, self._seed = batch, seed
        self._model: PathwiseGPModel | None = None
        self._taken: set[int] = set()
        self._picks: list[int] = []
        self._sign = 1.0

    def update_generator_state(self, experiment: Any, data: Any) -> None:
        """Fit the model to the trials that have a value of the objective."""
        objective = experiment.optimization_config.objective
        if objective.is_multi_objective or objective.is_scalarized_objective:
            raise InputError("PoolNode takes one objective: use surrogate_spec for several.")
        self._sign = -1.0 if objective.minimize else 1.0
        rows = {name: self._row(arm.parameters) for name, arm in experiment.arms_by_name.items()}
        self._taken = set(rows.values())
        (metric,) = objective.metric_names
        table = data.df[(data.df["metric_name"] == metric) & data.df["mean"].notna()]
        picked = [rows[name] for name in table["arm_name"]]
        self._model, self._picks = None, []
        if picked:
            y = self._sign * torch.tensor(table["mean"].to_numpy(), dtype=torch.float64)
            X = self._features[picked].double()
            self._model = PathwiseGPModel(X, y[:, None], **{"generator": self._seed} | self._options)

    def get_next_candidate(self, pending_parameters: list[Any]) -> dict[str, int]:
        """The next free row that a path prefers; at random before there are data."""
        taken = self._taken | {self._row(parameters) for parameters in pending_parameters}
        free = torch.ones(len(self._features), dtype=torch.bool)
        free[list(taken)] = False
        if not free.any():
            raise SearchSpaceExhausted(
                f"all {len(free)} rows of the pool have a trial: nothing is left to propose."
            )
        if self._model is None:
            generator = torch.Generator().manual_seed(self._seed + len(taken))
            left = free.nonzero()[:, 0]
            return {self._parameter: int(left[torch.randint(len(left), (1,), generator=generator)])}
        return {self._parameter: self._pick(free)}

    def _pick(self, free: Tensor) -> int:
        """The row of the first path whose pick is free; picks are kept, and more are made where none is."""
        while not (left := [row for row in self._picks if free[row]]):
            known = torch.zeros_like(free)
            known[list(self._taken)] = True
            count = min(len(self._picks) + self._batch, int((~known).sum()))
            self._picks = (
                PoolThompsonSampling(self._model).indices(self._features, count, exclude=known).tolist()
            )
        return left[0]

    def _row(self, parameters: Any) -> int:
        row = parameters[self._parameter]
        if not 0 <= int(row) < len(self._features):
            raise InputError(f"{self._parameter}={row} is no row of a pool of {len(self._features)}.")
        return int(row)
