"""The faces beside their hosts: fit and posterior functions, a Thompson batch of molecules, predictions, imports.

    functions    fit and 100 posterior functions at 1,000 points, of n rows in 6 columns (a smooth function and noise):
                 ours by `PathwiseGPModel`, and by `GPRegressor.sample_y`; BoTorch's `SingleTaskGP` by
                 `get_matheron_path_model`, and by `MaxPosteriorSampling` over the points; scikit-learn's `sample_y`.
                 All learn their hyperparameters as they do by default (scikit-learn a Matern-5/2 and noise); beside it
                 the error of their means at the points, where the truth has standard deviation 1
    molecules    a Thompson batch of 100 among fingerprinted molecules that are named by row (`TableKernel`), by
                 `MaxPosteriorSampling` (which may repeat) and `PoolThompsonSampling` on a model of 2,000 rows
    predictions  of `GPRegressor` at 100,000 and 1,000,000 points: what the second takes more memory
    imports      processor seconds of `import sggp.botorch` beside BoTorch, in turns

Each in a process of its own, with a limit of seconds and memory; memory is what a process held at its peak.

    python benchmarks/faces.py [--parts functions molecules] [--rows 500 2000 10000 50000] [--candidates 260000]
        [--points 1000000] [--cap-seconds 600] [--repeats 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from lib.common import end, forget_peak, header, peak_gib, print_table, run_apart, seeded

DRAWS, POINTS, BITS, ON, MEASURED = 100, 1000, 2048, 45, 2000
LIMIT_GIB = 20.0
Row = list[str]


def rows_of(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (n, 6), y (n, 1) with noise of .1, points, and the truth there, of standard deviation about 1."""
    generator = seeded(0)
    x = torch.rand(n + POINTS, 6, generator=generator, dtype=torch.float64)
    truth = torch.sin(6 * x[:, :1]) + torch.cos(4 * x[:, 1:2]) + x[:, 2:3] * x[:, 3:4] * 2
    truth = (truth - truth.mean()) / truth.std()
    y = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    return x[:n], y[:n], x[n:], truth[n:]


def pathwise(n: int) -> float:
    from sggp.botorch import PathwiseGPModel

    x, y, points, truth = rows_of(n)
    model = PathwiseGPModel(x, y, generator=0)
    drawn = model.posterior(points).rsample(torch.Size([DRAWS]))
    assert drawn.shape == (DRAWS, POINTS, 1)
    return _error(model.posterior(points).mean, truth)


def estimator(n: int) -> float:
    from sggp import GPRegressor

    x, y, points, truth = (part.numpy() for part in rows_of(n))
    model = GPRegressor(random_state=0, num_samples=DRAWS).fit(x, y[:, 0])
    assert model.sample_y(points, DRAWS).shape == (POINTS, DRAWS)
    return _error(torch.from_numpy(model.predict(points))[:, None], torch.from_numpy(truth))


def _single_task(n: int) -> tuple[Any, Tensor, Tensor]:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    x, y, points, truth = rows_of(n)
    model = SingleTaskGP(x, y)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model, points, truth


def matheron(n: int) -> float:
    from botorch.sampling.pathwise import draw_matheron_paths

    model, points, truth = _single_task(n)
    with torch.no_grad():
        assert draw_matheron_paths(model, torch.Size([DRAWS]))(points).shape == (DRAWS, POINTS)
        return _error(model.posterior(points).mean, truth)


def max_posterior(n: int) -> float:
    from botorch.generation import MaxPosteriorSampling

    model, points, truth = _single_task(n)
    with torch.no_grad():
        assert MaxPosteriorSampling(model)(points, num_samples=DRAWS).shape == (DRAWS, 6)
        return _error(model.posterior(points).mean, truth)


def scikit(n: int) -> float:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    x, y, points, truth = (part.numpy() for part in rows_of(n))
    kernel = ConstantKernel() * Matern([1.0] * 6, nu=2.5) + WhiteKernel()
    model = GaussianProcessRegressor(kernel, normalize_y=True).fit(x, y[:, 0])
    assert model.sample_y(points, DRAWS).shape == (POINTS, DRAWS)
    return _error(torch.from_numpy(model.predict(points))[:, None], torch.from_numpy(truth))


def _error(mean: Tensor, truth: Tensor) -> float:
    return float((mean - truth).square().mean().sqrt())


CONTENDERS = {
    "ours, PathwiseGPModel": pathwise,
    "ours, GPRegressor.sample_y": estimator,
    "BoTorch, Matheron paths": matheron,
    "BoTorch, MaxPosteriorSampling": max_posterior,
    "scikit-learn, sample_y": scikit,
}


def timed(name: str, n: int) -> tuple[float, float, float]:
    """Seconds of the wall and the processors, and the error of the mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CONTENDERS[name](60)  # imports and compilations
        wall, cpu = time.perf_counter(), time.process_time()
        error = CONTENDERS[name](n)
    return time.perf_counter() - wall, time.process_time() - cpu, error


def functions(arguments: argparse.Namespace) -> None:
    rows: list[Row] = []
    for n in arguments.rows:
        for name in CONTENDERS:
            done = run_apart(timed, name, n, limit_gib=LIMIT_GIB, limit_seconds=arguments.cap_seconds)
            cells = [done.failure, "", ""] if done.failure else [f"{number:.3g}" for number in done.value]
            rows.append([f"{n:,}", name, *cells, f"{done.peak_gib:.2f}"])
            print(*rows[-1], flush=True)
    print("\n## fit and 100 functions")
    print_table(["rows", "by", "wall s", "CPU s", "RMSE", "GiB"], rows)


def picked(strategy: str, candidates: int) -> tuple[float, float, float, int]:
    """Seconds of the wall and the processors, GiB beside what was there before, and how many different picks."""
    from botorch.generation import MaxPosteriorSampling
    from gpytorch.kernels import ScaleKernel

    from sggp.botorch import PathwiseGPModel, PoolThompsonSampling
    from sggp.kernels import TableKernel, TanimotoMinMax
    from sggp.molecules import FingerprintTable

    table = FingerprintTable.from_counts(_molecules(candidates))
    known = torch.arange(0, min(MEASURED, candidates // 2), dtype=torch.float64)[:, None]
    y = torch.sin(3 * table[: len(known)][:, :8].double()).sum(1, keepdim=True)
    kernel = ScaleKernel(TableKernel(TanimotoMinMax(), table)).double()
    settings = {"noise_variance": 0.01, "optimizer": None, "generator": 0, "num_samples": DRAWS}
    model = PathwiseGPModel(known, y, covar_module=kernel, **settings)
    rows = torch.arange(candidates, dtype=torch.float64)[:, None]
    with torch.no_grad():
        model.posterior(rows[:10]).rsample(torch.Size([DRAWS]))
    before, wall, cpu = forget_peak(), time.perf_counter(), time.process_time()
    chooser = {"MaxPosteriorSampling": MaxPosteriorSampling, "PoolThompsonSampling": PoolThompsonSampling}
    with torch.no_grad():
        found = chooser[strategy](model)(rows, num_samples=DRAWS)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return *spent, peak_gib() - before, len(set(found.flatten().tolist()))


def _molecules(n: int) -> Tensor:
    """Bits of which a few are frequent and most are rare, some 45 to a row."""
    frequency = 1 / torch.arange(1.0, BITS + 1) ** 0.7
    frequency, generator = (frequency * ON / frequency.sum()).clamp(max=0.9), seeded(5)
    sizes = [len(part) for part in torch.arange(n).split(4096)]
    return torch.cat([(torch.rand(k, BITS, generator=generator) < frequency).to(torch.uint8) for k in sizes])


def molecules(arguments: argparse.Namespace) -> None:
    rows: list[Row] = []
    for strategy in ("MaxPosteriorSampling", "PoolThompsonSampling"):
        done = run_apart(picked, strategy, arguments.candidates, limit_seconds=arguments.cap_seconds)
        cells = [done.failure] + [""] * 3 if done.failure else [f"{number:.3g}" for number in done.value]
        rows.append([strategy, *cells, f"{done.peak_gib:.2f}"])
    print(f"\n## {DRAWS} picks of {arguments.candidates:,} molecules by row number")
    print_table(["by", "wall s", "CPU s", "GiB more", "different", "GiB in all"], rows)


def predicted(points: int) -> tuple[float, float]:
    """Seconds of the processors, and GiB beside the points, of means and standard deviations."""
    from sggp import GPRegressor

    x, y, _, _ = rows_of(2000)
    model = GPRegressor(random_state=0).fit(x.numpy(), y.numpy()[:, 0])
    at = torch.rand(points, 6, generator=seeded(9), dtype=torch.float64).numpy()
    model.predict(at[:1000], return_std=True)
    before, cpu = forget_peak(), time.process_time()
    mean, std = model.predict(at, return_std=True)
    return time.process_time() - cpu, peak_gib() - before - (mean.nbytes + std.nbytes) / 2**30


def predictions(arguments: argparse.Namespace) -> None:
    rows: list[Row] = []
    for points in (max(1, arguments.points // 10), arguments.points):
        done = run_apart(predicted, points, limit_seconds=arguments.cap_seconds)
        cells = [done.failure, ""] if done.failure else [f"{number:.3g}" for number in done.value]
        rows.append([f"{points:,}", *cells])
    print("\n## mean and standard deviation of 2,000 rows' `GPRegressor`")
    print_table(["points", "CPU s", "GiB beside points and results"], rows)


IN_USE = (
    "from botorch.models import SingleTaskGP; from botorch.acquisition import qLogExpectedImprovement;"
    "from botorch.generation import MaxPosteriorSampling; from botorch.sampling.pathwise import draw_matheron_paths"
)
IMPORTS = {
    "botorch, which loads little of itself": "import botorch",
    "sggp.botorch": "import sggp.botorch",
    "a model, an acquisition function, paths of BoTorch": IN_USE,
    "the same and sggp.botorch": f"{IN_USE}; import sggp.botorch",
}


def imports(arguments: argparse.Namespace) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(arguments.repeats):
        for name, code in IMPORTS.items():
            begin = _of_children()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds[name].append(_of_children() - begin)
    rows = [[name, f"{statistics.median(found):.3g}", f"{min(found):.3g}"] for name, found in seconds.items()]
    print("\n## imports, the interpreter's own start included")
    print_table(["imported", "median CPU s", "least"], rows)


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


PARTS = {"functions": functions, "molecules": molecules, "predictions": predictions, "imports": imports}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    add("--rows", type=int, nargs="+", default=[500, 2000, 10_000, 50_000])
    add("--candidates", type=int, default=260_000)
    add("--points", type=int, default=1_000_000)
    add("--cap-seconds", type=float, default=600.0)
    add("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    header("The faces beside their hosts", ("torch", "gpytorch", "botorch", "scikit-learn"))
    for part in arguments.parts:
        PARTS[part](arguments)
    end()


if __name__ == "__main__":
    main()
