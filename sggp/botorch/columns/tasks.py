"""`PathwiseMultiTaskGP`: several tasks in one process, by a column that names the task of each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.transforms.input import InputTransform
from botorch.models.transforms.outcome import OutcomeTransform, StratifiedStandardize
from botorch.posteriors.posterior import Posterior
from botorch.sampling.pathwise.posterior_samplers import DrawMatheronPaths
from botorch.utils.types import DEFAULT
from gpytorch.kernels import IndexKernel, Kernel
from torch import Tensor

from sggp.botorch.checks import check_points, check_training_data, per_output
from sggp.botorch.columns.kernels import check_untouched, column_number, copied_on_columns, default_on_columns
from sggp.botorch.combined import CombinedPosterior, transformed
from sggp.botorch.model import PathwiseGPModel
from sggp.botorch.paths import PosteriorPaths
from sggp.errors import InputError, NoJointGaussian, ShapeError
from sggp.kernels import TaskKernel

if TYPE_CHECKING:
    from sggp.hyperparameters.auto import Optimizer


class PathwiseMultiTaskGP(PathwiseGPModel):
    """Intrinsic coregionalisation: a `PathwiseGPModel` of tasks that learn from one another, as `MultiTaskGP` has it.

    The rows are in the long format: a column names the task of each row by a whole number, and every task may have rows
    of its own. The covariance of f(x, s) and f(z, t) is k(x, z) B_st, with k the kernel of the other columns and B
    the covariances of the tasks (`sggp.kernels.TaskKernel`), both learnt. A path is one function of all tasks: of
    independent functions with the kernel k, each task is another mixture, by a Cholesky factor of B.

    At points with the column of tasks, the answers are one output, of the task that each point names. At points without
    it they are those of `output_tasks`, one output each, on the same paths.

    Args:
        train_X: inputs (n, d), the column of tasks included. train_Y: outcomes (n, 1). train_Yvar: (n, 1) or None.
        task_feature: the column of tasks, from -d to d - 1; tasks are whole numbers, not negative.
        covar_module: kernel of the other columns, or of its `active_dims`; None is a scaled Matérn kernel with one
            length scale per column. A kernel that has a `TaskKernel` or `IndexKernel` in it is used whole.
        output_tasks: the tasks that are outputs; None is all. An acquisition function of one output needs one task.
        **options: `rank` of the factor of B (default: the number of tasks), `all_tasks` (also those without data), and
            all other arguments of `PathwiseGPModel`. Unless `outcome_transform` is given, each task is standardised by
            itself (`StratifiedStandardize`). The noise variance is one, in standardised units; `train_Yvar` is per row.

    Raises:
        ShapeError, DtypeError, InputError: what was given cannot be used; the message says why.

    Cost: as `PathwiseGPModel` with T times as many features for T tasks.

    Example:
        >>> import torch
        >>> from sggp.botorch import PathwiseMultiTaskGP
        >>> X = torch.rand(30, 2, dtype=torch.float64)
        >>> X[:, 1] = torch.arange(30) % 2
        >>> model = PathwiseMultiTaskGP(X, X.sin().sum(-1, keepdim=True), task_feature=1, output_tasks=[0], generator=0)
        >>> model.posterior(X[:3, :1]).rsample(torch.Size([4])).shape
        torch.Size([4, 3, 1])
    """

    def __init__(
        self,
        train_X: Tensor,
        train_Y: Tensor,
        task_feature: int,
        train_Yvar: Tensor | None = None,
        covar_module: Kernel | None = None,
        output_tasks: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        check_training_data(train_X, train_Y, train_Yvar)
        d = train_X.shape[-1]
        if train_Y.shape[-1] != 1 or d < 2:
            raise ShapeError(
                f"expected train_X (n, d) with the column of tasks and others, and train_Y (n, 1), got "
                f"{tuple(train_X.shape)} and {tuple(train_Y.shape)}: give each outcome of each task a row of its own."
            )
        self._task_feature = column_number(task_feature, d, "task_feature")
        self._rank, named = options.pop("rank", None), options.pop("all_tasks", None)
        self._tasks = _tasks_of(train_X[:, self._task_feature], named)
        self._output_tasks = _checked(output_tasks, self._tasks)
        if options.get("outcome_transform", DEFAULT) == DEFAULT:
            tasks = torch.tensor(self._tasks, device=train_X.device)
            options["outcome_transform"] = StratifiedStandardize(self._task_feature, tasks)
        super().__init__(train_X, train_Y, train_Yvar, covar_module, **options)

    @property
    def num_outputs(self) -> int:
        """Number m of tasks that are outputs."""
        return len(self._output_tasks)

    @property
    def output_tasks(self) -> list[int]:
        """The tasks that are outputs at points without the column of tasks."""
        return list(self._output_tasks)

    @property
    def task_covariances(self) -> Tensor:
        """The covariances of the tasks (T, T), in the order of their numbers, up to the scale of the other kernel."""
        kernels = [part for part in self.covar_module.modules() if isinstance(part, IndexKernel)]
        return kernels[0]._eval_covar_matrix().detach()

    def completed(self, X: Tensor) -> Tensor:
        """`X` with the column of tasks, which is filled in where it is missing and one task is the output."""
        if not self.lacks_task(X):
            return X
        if len(self._output_tasks) > 1:
            raise NoJointGaussian(
                f"X has shape {tuple(X.shape)}, without the column of tasks, and the outputs are the tasks "
                f"{self._output_tasks}: add the column, or use model.subset_output([i]) for one of them."
            )
        return self.at_tasks(X, self._output_tasks)

    def at_tasks(self, X: Tensor, tasks: Sequence[int]) -> Tensor:
        """Points (*b, q, d - 1) with the column of tasks, each at every task in turn: (*b, q k, d) for k tasks."""
        numbers = torch.tensor(list(tasks), dtype=X.dtype, device=X.device)
        each = X.unsqueeze(-2).expand(*X.shape[:-1], len(numbers), X.shape[-1])
        column = numbers.unsqueeze(-1).expand(*each.shape[:-1], 1)
        at = self._task_feature
        return torch.cat([each[..., :at], column, each[..., at:]], dim=-1).flatten(-3, -2)

    def check_columns(self, rows: Tensor) -> None:
        """Refuse rows of unknown tasks; see `PathwiseGPModel`."""
        _tasks_of(rows[..., self._task_feature].reshape(-1), self._tasks)

    def output_numbers(self, indices: Sequence[int] | None) -> list[int]:
        """The one process."""
        return [0]

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """Posterior at X.

        Args:
            X: points (*b, q, d), each at the task that it names, or (*b, q, d - 1), each at every output task.
            output_indices: numbers of tasks in place of `output_tasks`, as `MultiTaskGP` has it; for points without
                the column of tasks.
            observation_noise, posterior_transform: as in `PathwiseGPModel.posterior`. The variance of a weighted sum of
                tasks is that of its paths.

        Returns:
            A posterior of one output for points with their task, else of one output per task; the outputs are
            correlated, path by path.
        """
        if not self.lacks_task(X):
            if output_indices is not None:
                raise InputError(
                    "output_indices chooses among tasks, but X names the task of each point: pass one."
                )
            noise = self._noise_of_tasks(X, observation_noise)
            return super().posterior(X, None, noise, posterior_transform)
        check_points(X, None)
        tasks = self._output_tasks if output_indices is None else _checked(output_indices, self._tasks)
        noise, whole = observation_noise, self.at_tasks(X, tasks)
        if isinstance(noise, Tensor):
            noise = noise.expand(*X.shape[:-1], len(tasks)).reshape(*X.shape[:-2], -1, 1)
        if len(tasks) == 1:
            return self.posterior(whole, None, noise, posterior_transform)
        long = self.posterior(whole, None, noise)

        def by_task(values: Tensor) -> Tensor:  # (*s, *b, q m, 1) -> (*s, *b, q, m)
            return values.reshape(*values.shape[:-2], -1, len(tasks))

        each = CombinedPosterior(
            long, by_task, lambda: by_task(long.variance), (*X.shape[:-1], len(tasks)), correlated=True
        )
        return transformed(each, posterior_transform, X)

    def subset_output(self, idcs: list[int]) -> PathwiseMultiTaskGP:
        """The same model with some of the output tasks, by their position in `output_tasks`."""
        numbers = super().output_numbers(idcs)
        out = self._sibling(self.output_models, self._raw_X)
        out._output_tasks = [self._output_tasks[i] for i in numbers]
        return out.eval()

    def lacks_task(self, X: Any) -> bool:
        """Whether X is of points without the column of tasks."""
        return isinstance(X, Tensor) and X.ndim >= 2 and X.shape[-1] == self.input_dim - 1

    def _noise_of_tasks(self, X: Tensor, given: bool | Tensor) -> bool | Tensor:
        """Where the noise is known per row and asked for, the mean one of each point's task."""
        (output,) = self.output_models
        if given is not True or output.known_noise is None:
            return given
        mine = output.x[:, self._task_feature]
        noise = X.new_full((*X.shape[:-1], 1), float(output.known_noise.mean()), dtype=torch.float64)
        for task in self._tasks:
            if bool((mine == task).any()):
                noise[X[..., self._task_feature] == task] = output.known_noise[mine == task].mean()
        return noise

    def _check_transformed(self, given: Tensor, x: Tensor) -> None:
        check_untouched(given, x, [self._task_feature], "names tasks")

    def _fit_transforms(
        self,
        X: Tensor,
        Y: Tensor,
        Yvar: Tensor | None,
        input_transform: InputTransform | None,
        outcome_transform: OutcomeTransform | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        found = super()._fit_transforms(X, Y, Yvar, input_transform, outcome_transform)
        outcome = getattr(self, "outcome_transform", None)
        if isinstance(outcome, StratifiedStandardize):  # tasks without data have the units of all data
            missing = sorted(set(self._tasks) - {int(task) for task in X[:, self._task_feature]})
            rows = outcome.strata_mapping[missing].long()
            outcome.means[rows], spread = Y.double().mean(), Y.double().std(correction=0)
            outcome.stdvs[rows], outcome._stdvs_sq[rows] = spread, spread.square()
        return found

    def _learn(self, optimizer: Optimizer) -> None:
        """As in `PathwiseGPModel`; a task without data then has the mean factor and variance of those with some."""
        super()._learn(optimizer)
        (output,) = self.output_models
        seen = torch.isin(torch.tensor(self._tasks), output.x[:, self._task_feature].long().cpu())
        for part in output.covar_module.modules():
            if isinstance(part, TaskKernel) and len(part.tasks) == len(seen) and not bool(seen.all()):
                factor, own = part.covar_factor.detach().clone(), part.var.detach().clone()
                total = (factor.square().sum(1) + own)[seen].mean()
                factor[~seen] = factor[seen].mean(0)
                own[~seen] = total - factor[~seen].square().sum(1)
                part.initialize(covar_factor=factor, var=own)
                output.invalidate()

    def _kernels(self, given: Any, x: Tensor, y: Tensor) -> list[Kernel | None]:
        others = [j for j in range(x.shape[-1]) if j != self._task_feature]
        (given,) = per_output(given, 1, "covar_module", Kernel)
        if given is not None and any(isinstance(part, IndexKernel) for part in given.modules()):
            if self._rank is not None:
                raise InputError(
                    "covar_module has a kernel of tasks of its own: set the rank there, and leave out rank."
                )
            return [given]
        base = default_on_columns(x, y[:, 0], others) if given is None else copied_on_columns(given, others)
        return [base * TaskKernel(self._tasks, self._rank, active_dims=(self._task_feature,))]


def _tasks_of(column: Tensor, known: Sequence[int] | None) -> list[int]:
    """The numbers in a column (n,), or those known, among which they must be.

    Raises:
        InputError: a number is not whole, negative, or not known.
    """
    tasks = TaskKernel(column.unique().tolist() if known is None else known)
    tasks.codes(column)
    if int(tasks.tasks[0]) < 0:
        raise InputError(f"task {int(tasks.tasks[0])} is negative: number the tasks from 0.")
    return [int(task) for task in tasks.tasks]


def _checked(asked: Sequence[int] | None, tasks: list[int]) -> list[int]:
    """The output tasks, all for None."""
    if asked is None:
        return tasks
    listed = list(asked) if isinstance(asked, Iterable) else []
    if not listed or any(task not in tasks for task in listed):
        raise InputError(f"output tasks must be some of the tasks {tasks}, got {listed or asked}.")
    return [int(task) for task in listed]


class TaskPaths(PosteriorPaths):
    """Paths of a `PathwiseMultiTaskGP`, at points with or without the column of tasks.

    The shapes are those of `PosteriorPaths`: of one output for points that name their task and for one output task,
    else of the m output tasks.
    """

    def __init__(self, model: PathwiseMultiTaskGP, sample_shape: torch.Size, first: int) -> None:
        super().__init__(model.output_models, sample_shape, first, dtype=model._raw_X.dtype)
        self._model = model

    def forward(self, x: Tensor) -> Tensor:
        """Values of the paths at `x`, in raw units."""
        model = self._model
        if model.num_outputs == 1 or x.ndim < 3 or x.shape[-3] != 1:
            return self._of_tasks(model.completed(x))
        points, tasks = x.squeeze(-3), model.output_tasks
        each = [model.at_tasks(points, [task]) for task in tasks] if model.lacks_task(x) else [points]
        return torch.stack([self._of_tasks(one) for one in each], dim=-2)

    def _of_tasks(self, x: Tensor) -> Tensor:
        rows = self._model.candidates(x)
        values = super().forward(rows)
        outcome = getattr(self._model, "outcome_transform", None)
        return values if outcome is None else outcome.untransform(values.unsqueeze(-1), X=rows)[0].squeeze(-1)


@DrawMatheronPaths.register(PathwiseMultiTaskGP)
def _draw_task_paths(
    model: PathwiseMultiTaskGP,
    *,
    sample_shape: torch.Size,
    prior_sampler: Any = None,
    update_strategy: Any = None,
) -> TaskPaths:
    """As for a `PathwiseGPModel`."""
    model.eval()
    return TaskPaths(model, torch.Size(sample_shape), model.claim_paths(torch.Size(sample_shape).numel()))
