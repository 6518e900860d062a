"""Batched Thompson sampling in a box: Hartmann-6, noisy, 20 points at a time, beside random search.

python examples/thompson_box.py            # 10 batches of 20, about a minute
python examples/thompson_box.py --quick    # a few seconds
"""

from __future__ import annotations

import argparse
import math

import torch

from sggp.bayesopt import Box, BoxSearch, ThompsonSampling, fit_surrogate

NOISE = 0.01
OPTIMUM = 3.32237  # largest value of the function
ALPHA = torch.tensor([1.0, 1.2, 3.0, 3.2], dtype=torch.float64)
A = torch.tensor(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ],
    dtype=torch.float64,
)
P = 1e-4 * torch.tensor(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ],
    dtype=torch.float64,
)


def hartmann6(x: torch.Tensor) -> torch.Tensor:
    """The six-dimensional Hartmann function with its sign turned, to be maximised: (n, 6) -> (n,)."""
    distance = (A * (x.unsqueeze(1) - P).square()).sum(-1)
    return (ALPHA * torch.exp(-distance)).sum(-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 batches of 5")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rounds, batch, known = (2, 5, 20) if options.quick else (10, 20, 40)

    generator = torch.Generator().manual_seed(options.seed)
    box = Box([[0.0, 1.0]] * 6)

    def measure(points: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(points), generator=generator, dtype=torch.float64)
        return hartmann6(points) + NOISE * noise

    x = box.sample(known, generator=generator)
    y = measure(x)
    search = BoxSearch(rounds=3, candidates=256, steps=20) if options.quick else BoxSearch()
    thompson = ThompsonSampling(box, batch, maximize=True, search=search)
    print(f"{known} random points: best {hartmann6(x).max():.3f} of at most {OPTIMUM:.3f}")
    for number in range(1, rounds + 1):
        model = fit_surrogate(x, y, num_samples=batch, num_features=1024, generator=generator)
        new = thompson.suggest(model.posterior, generator=generator)
        x, y = torch.cat([x, new]), torch.cat([y, measure(new)])
        print(f"batch {number}: best of {len(x)} points {hartmann6(x).max():.3f}")

    repeats = [float(hartmann6(box.sample(len(x), generator=generator)).max()) for _ in range(100)]
    mean = sum(repeats) / len(repeats)
    spread = math.sqrt(sum((value - mean) ** 2 for value in repeats) / len(repeats))
    print(f"random search with {len(x)} points: best {mean:.3f} ± {spread:.3f} over {len(repeats)} repeats")


if __name__ == "__main__":
    main()
