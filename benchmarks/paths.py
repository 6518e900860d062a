"""How true posterior paths are where little is left to know: their variance against the exact one.

Rows on a line (d = 1) or at random in the unit cube, one length scale, unit output scale. Queries: a quarter each at
rows, midway between nearest rows, at random in the cube, and around it. Per setting, over the queries, the 1 %, 50 %
and 99 % quantiles of

    variance    mean square of the paths' deviations from the mean ÷ dense float64 posterior variance
    pairs       (paths' covariance − exact covariance)/√(product of exact variances) of queries a short step apart
    slope       as the variance, of the difference quotient of the path over a tenth of the rows' spacing
                (families with derivatives)

for sggp, and beside it the variance of BoTorch's Matheron paths with as many features and paths
(`draw_matheron_paths` on a `SingleTaskGP` with the same kernel and noise). The standard error of a variance by s paths
is √(2/s) of it. `ok` where the median of sggp is within .9-1.1 and the outer quantiles within .75-1.3.

    python benchmarks/paths.py [--families matern32 ...] [--rows 12 30 300 3000] [--dims 1 2 6] [--noise 1e-6 1e-4 1e-2]
        [--paths 4096] [--features 2048] [--queries 2000] [--no-peer] [--plot FILE.png]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from botorch.models import SingleTaskGP
from botorch.sampling.pathwise import draw_matheron_paths
from gpytorch.kernels import Kernel, MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor

from lib.common import header, print_table, seeded
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.posterior import Posterior, condition

LENGTH_SCALES = {1: 0.5, 2: 0.7, 6: 1.5}
QUANTILES = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64)
FAMILIES = (
    *("matern12", "matern32", "matern52", "rbf", "rq", "periodic", "sum", "product"),
    *("tanimoto", "dot-product"),
)
SMOOTH = ("matern32", "matern52", "rbf", "rq", "product")
PEERS = ("matern12", "matern32", "matern52", "rbf")
COLUMNS = [
    "kernel",
    "d",
    "rows",
    "noise",
    "variance",
    "pairs",
    "slope",
    "",
    "BoTorch variance",
    "s (sggp, BoTorch)",
]


def with_length_scale(kernel: Kernel, lengthscale: float) -> Kernel:
    kernel.lengthscale = lengthscale
    return kernel


def stationary(family: str, d: int) -> Kernel:
    """A kernel of unit scale in d columns."""
    size = LENGTH_SCALES.get(d, 0.6 * math.sqrt(d))
    makers = {
        "matern12": lambda: MaternKernel(0.5),
        "matern32": lambda: MaternKernel(1.5),
        "matern52": lambda: MaternKernel(2.5),
        "rbf": RBFKernel,
        "rq": RQKernel,
        "periodic": PeriodicKernel,
    }
    if family in makers:
        return with_length_scale(makers[family](), size).double()
    if family == "sum":  # the rough term is what is left between the rows
        rough = ScaleKernel(with_length_scale(MaternKernel(0.5), size))
        rough.outputscale = 0.02
        return (with_length_scale(MaternKernel(2.5), size) + rough).double()
    first = RBFKernel(active_dims=[0])
    rest = MaternKernel(2.5, active_dims=list(range(min(1, d - 1), d)))
    return (with_length_scale(first, size) * with_length_scale(rest, size)).double()


@dataclass
class Setting:
    """Rows, queries and the exact posterior of one system."""

    kernel: Kernel
    x: Tensor
    queries: Tensor
    noise: float

    def gram(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            return self.kernel(a, b).to_dense().double()

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Exact posterior covariances of a_i and b_i, (q,)."""
        matrix = self.gram(self.x, self.x)
        matrix.diagonal().add_(self.noise)
        factor = torch.linalg.cholesky(matrix)
        left = torch.linalg.solve_triangular(factor, self.gram(self.x, a), upper=False)
        right = torch.linalg.solve_triangular(factor, self.gram(self.x, b), upper=False)
        with torch.no_grad():
            own = self.kernel(a.unsqueeze(1), b.unsqueeze(1)).to_dense().double().flatten()
        return own - (left * right).sum(0)


def real_setting(family: str, n: int, d: int, noise: float, queries: int) -> Setting:
    generator = seeded(n + d)
    draw = lambda rows: torch.rand(rows, d, generator=generator, dtype=torch.float64)  # noqa: E731
    x = torch.linspace(0, 1, n, dtype=torch.float64)[:, None] if d == 1 else draw(n)
    quarter = queries // 4
    chosen = torch.randint(n, (quarter,), generator=generator)
    distance = torch.cdist(x[chosen], x)
    distance[torch.arange(quarter), chosen] = math.inf
    midway = 0.5 * (x[chosen] + x[distance.argmin(1)])
    around = 1.6 * draw(quarter) - 0.3
    points = torch.cat([x[chosen], midway, draw(queries - 3 * quarter), around])
    return Setting(stationary(family, d), x, points, noise)


def molecules_setting(kernel: Kernel, n: int, noise: float, queries: int) -> Setting:
    """Counts in clusters, as scaffolds make them, and queries that share them."""
    generator = seeded(n)
    rates = torch.rand(20, 200, generator=generator, dtype=torch.float64).pow(6) * 4
    scaffold = torch.randint(20, (n + queries,), generator=generator)
    counts = torch.poisson(rates[scaffold], generator=generator) + 0.0
    return Setting(kernel.double(), counts[:n], counts[n:], noise)


def deviations(posterior: Posterior, points: Tensor) -> Tensor:  # -> (q, s)
    """Paths less the mean, float64."""
    return (posterior.samples(points) - posterior.mean(points)).T


def quantiles(values: Tensor) -> list[float]:
    return torch.quantile(values, QUANTILES).tolist()


def spread(setting: Setting) -> tuple[Tensor, float]:
    """A short step for pairs, (d,), and a shorter one for slopes."""
    spacing = float(
        torch.cdist(setting.x[:500], setting.x).topk(2, dim=1, largest=False).values[:, 1].median()
    )
    step = torch.zeros(setting.x.shape[1], dtype=torch.float64)
    step[0] = spacing
    return step, 0.1 * spacing


def measure(
    setting: Setting, paths: int, features: int, smooth: bool
) -> tuple[dict[str, list[float]], float]:
    """Quantiles of what the module's head names, and the seconds of conditioning and evaluating the queries."""
    start = time.perf_counter()
    posterior = condition(
        setting.kernel,
        setting.x,
        torch.zeros(len(setting.x), dtype=torch.float64),
        noise_variance=setting.noise,
        num_samples=paths,
        num_features=features,
        generator=0,
    )
    drawn = deviations(posterior, setting.queries)
    seconds = time.perf_counter() - start
    variance = setting.covariance(setting.queries, setting.queries)
    found = {"variance": quantiles(drawn.square().mean(1) / variance)}
    if setting.x.dtype.is_floating_point and not isinstance(
        setting.kernel, (TanimotoMinMax, TanimotoDotProduct)
    ):
        step, short = spread(setting)
        partner = setting.queries + step
        other, own = deviations(posterior, partner), setting.covariance(partner, partner)
        error = (drawn * other).mean(1) - setting.covariance(setting.queries, partner)
        found["pairs"] = quantiles(error / (variance * own).sqrt())
        if smooth:
            near = setting.queries + short * step / step.norm()
            difference = deviations(posterior, near) - drawn
            exact = variance + setting.covariance(near, near) - 2 * setting.covariance(setting.queries, near)
            found["slope"] = quantiles(difference.square().mean(1) / exact)
    return found, seconds


def peer(setting: Setting, paths: int, features: int) -> tuple[list[float], float]:
    """The same quantiles of the variance for BoTorch's paths, and their seconds."""
    start = time.perf_counter()
    targets = torch.zeros(len(setting.x), 1, dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(
            setting.x,
            targets,
            torch.full_like(targets, setting.noise),
            covar_module=setting.kernel,
            outcome_transform=None,
        ).eval()
        model.mean_module.constant.fill_(0.0)
        torch.manual_seed(0)
        drawn = draw_matheron_paths(model, torch.Size([paths]))(setting.queries)
    seconds = time.perf_counter() - start
    variance = setting.covariance(setting.queries, setting.queries)
    return quantiles(drawn.square().mean(0) / variance), seconds


def cell(values: list[float] | None) -> str:
    return "" if values is None else " / ".join(f"{value:.2f}" for value in values)


def passed(found: dict[str, list[float]]) -> bool:
    """Within what the module's head calls ok."""
    ratios = [values for name, values in found.items() if name != "pairs"]
    close = all(low >= 0.75 and 0.9 <= middle <= 1.1 and high <= 1.3 for low, middle, high in ratios)
    pairs = found.get("pairs", [0.0, 0.0, 0.0])
    return close and abs(pairs[1]) <= 0.1 and max(-pairs[0], pairs[2]) <= 0.3


def plot(rows: list[tuple[str, list[float], list[float] | None]], target: str) -> None:
    """The quantiles as bars, sggp's and BoTorch's, one line a setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.16 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, (_, ours, theirs) in enumerate(rows):
        for values, colour, offset in ((ours, "tab:blue", 0.15), (theirs, "tab:orange", -0.15)):
            if values is not None:
                axes.plot([values[0], values[2]], [number + offset] * 2, color=colour, linewidth=2)
                axes.plot(values[1], number + offset, "o", color=colour, markersize=3)
    axes.axvspan(0.75, 1.3, color="0.92", zorder=0)
    peer_too = ", BoTorch orange" if any(theirs is not None for _, _, theirs in rows) else ""
    axes.set(xscale="log", xlabel=f"variance of paths ÷ exact (1 %, 50 %, 99 %): sggp blue{peer_too}")
    axes.margins(y=0.005)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=6)
    axes.invert_yaxis()
    figure.savefig(target, dpi=120)


def settings(arguments: argparse.Namespace) -> list[tuple[tuple[Any, ...], Setting, str]]:
    out = []
    for family, d, n, noise in itertools.product(
        arguments.families, arguments.dims, arguments.rows, arguments.noise
    ):
        if family in ("tanimoto", "dot-product"):
            if d == arguments.dims[0]:
                kernel = TanimotoMinMax() if family == "tanimoto" else TanimotoDotProduct()
                setting = molecules_setting(kernel, n, noise, arguments.queries)
                out.append(((family, 200, n, noise), setting, family))
        else:
            setting = real_setting(family, n, d, noise, arguments.queries)
            out.append(((family, d, n, noise), setting, family))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    families = [
        "matern12",
        "matern32",
        "matern52",
        "rbf",
        "rq",
        "periodic",
        "sum",
        "product",
        "tanimoto",
        "dot-product",
    ]
    parser.add_argument("--families", nargs="+", default=families, choices=families)
    parser.add_argument("--rows", nargs="+", type=int, default=[12, 30, 300, 3000])
    parser.add_argument("--dims", nargs="+", type=int, default=[1, 2, 6])
    parser.add_argument("--noise", nargs="+", type=float, default=[1e-6, 1e-4, 1e-2])
    parser.add_argument("--paths", type=int, default=4096)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    header("variance of posterior paths", ("torch", "gpytorch", "botorch"))
    print(f"{arguments.paths} paths, {arguments.features} features, {arguments.queries} queries, seed 0\n")
    rows, drawn, good = [], [], 0
    for (family, d, n, noise), setting, name in settings(arguments):
        found, seconds = measure(setting, arguments.paths, arguments.features, family in SMOOTH)
        theirs, their_seconds = None, math.nan
        if not arguments.no_peer and name in PEERS:
            theirs, their_seconds = peer(setting, arguments.paths, arguments.features)
        ok = passed(found)
        good += ok
        cells = [family, str(d), str(n), f"{noise:g}", *(cell(found.get(key)) for key in COLUMNS[4:7])]
        rows.append([*cells, "ok" if ok else "no", cell(theirs), f"{seconds:.1f}, {their_seconds:.1f}"])
        drawn.append((f"{family} d={d} n={n} {noise:g}", found["variance"], theirs))
    print_table(COLUMNS, rows)
    print(f"\n{good} of {len(rows)} settings ok")
    if arguments.plot:
        plot(drawn, arguments.plot)


if __name__ == "__main__":
    main()
