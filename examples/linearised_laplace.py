"""Calibrated uncertainty for a convolutional network: linearised Laplace on scikit-learn's digits, without tuning.

The network is trained as usual, with no thought of uncertainty. Afterwards its weights get a Gaussian posterior by
products with its Jacobian; the prior precision is learnt from the same training data, and no matrix over pairs of
weights is formed. "Network alone" has memorised its training images and is overconfident.

python examples/linearised_laplace.py            (under a minute on one core)
python examples/linearised_laplace.py --quick
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from sggp.linear import LinearisedLaplace


def digits(train: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Images (n, 1, 8, 8) in [0, 1] and classes, split at random."""
    images, classes = load_digits(return_X_y=True)
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.as_tensor(classes)
    order = torch.randperm(len(x), generator=generator)
    a, b = order[:train], order[-600:]
    return x[a], y[a], x[b], y[b]


def train_network(x: torch.Tensor, y: torch.Tensor, epochs: int, generator: torch.Generator) -> nn.Module:
    """A small convolutional network, trained by Adam to fit its training data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    return network.eval()


def scores(p: torch.Tensor, y: torch.Tensor, bins: int = 10) -> tuple[float, float, float]:
    """Accuracy, mean negative log-likelihood, and expected calibration error."""
    confidence, guess = p.max(1)
    right = (guess == y).to(p)
    nll = -p[torch.arange(len(y)), y].clamp_min(1e-12).log().mean()
    place = (confidence * bins).long().clamp_max(bins - 1)
    errors = [
        (right[place == i].mean() - confidence[place == i].mean()).abs() * (place == i).to(p).mean()
        for i in range(bins)
        if bool((place == i).any())
    ]
    return float(right.mean()), float(nll), float(sum(errors))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer digits, epochs and samples")
    quick = parser.parse_args().quick
    generator = torch.Generator().manual_seed(0)
    x, y, x_test, y_test = digits(100 if quick else 400, generator)
    network = train_network(x, y, 25 if quick else 100, generator)

    settings = {"likelihood": "softmax", "num_samples": 4 if quick else 32, "tolerance": 1e-2}
    posteriors = {
        "last layer": LinearisedLaplace(network, parameters=["5.weight", "5.bias"], **settings),
        "all weights": LinearisedLaplace(network, **settings),
    }
    predictions = {"network alone": lambda inputs: network(inputs).softmax(1).detach()}
    for name, laplace in posteriors.items():
        posterior = laplace.fit(x, y, generator=1)
        print(
            f"{len(x)} digits, {name}: {posterior.features.num_weights} uncertain weights; learnt prior precision "
            f"{posterior.prior_precision:.3g} in {len(posterior.linear.trace)} steps, effective dimension "
            f"{posterior.effective_dimension:.0f} ± {posterior.linear.effective_dimension_error:.0f}"
        )
        predictions[f"Laplace, {name}"] = posterior.predict_proba

    strange = {
        "rotated by 90°": x_test.rot90(1, (2, 3)),
        "noise": torch.rand(x_test.shape, generator=generator),
    }
    print(
        f"\n{'':20s} accuracy    NLL    ECE   mean confidence on digits "
        + " ".join(f"{k:>16s}" for k in strange)
    )
    for name, predict in predictions.items():
        p = predict(x_test)
        accuracy, nll, ece = scores(p, y_test)
        elsewhere = " ".join(f"{float(predict(inputs).amax(1).mean()):16.3f}" for inputs in strange.values())
        print(f"{name:20s} {accuracy:8.3f} {nll:6.3f} {ece:6.3f} {float(p.amax(1).mean()):27.3f} {elsewhere}")


if __name__ == "__main__":
    main()
