"""The best rows of every path by joblib's processes and by one process: prints whether they are the same."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from gpytorch.kernels import MaternKernel
from joblib import Parallel, delayed

from sggp import condition
from sggp.bayesopt.streaming import PathSearch


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    x = np.random.default_rng(0).random((200, 2))
    posterior = condition(
        MaternKernel(nu=1.5).double(),
        torch.from_numpy(x[:40]),
        torch.from_numpy(np.sin(6 * x[:40].sum(1))),
        noise_variance=0.01,
        num_samples=8,
        generator=0,
    )
    search = PathSearch(posterior.samples, k=3, block=32)
    starts = [0, 70, 130]
    files = [folder / f"{start}.npy" for start in starts]
    for file, part in zip(files, np.split(x, starts[1:]), strict=True):
        np.save(file, part)
    spread = Parallel(n_jobs=2, backend="multiprocessing")
    found = spread(delayed(search.shard)(file, start) for file, start in zip(files, starts, strict=True))
    one, many = search.shard(x), search.reduce(*found)
    same = np.array_equal(one.rows, many.rows), np.allclose(one.values, many.values)
    sys.stdout.write(f"{one.rows.shape} {same}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
