"""Twenty lines: learn, predict with uncertainty, draw functions. Runs in seconds on data that scikit-learn ships.

python examples/quickstart.py
"""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from sggp import GPRegressor

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0)

model = GPRegressor(random_state=0).fit(X_train, y_train)  # length scales, noise and mean are learnt
mean, std = model.predict(X_test, return_std=True, include_noise=True)  # in units of y
inside = np.mean(np.abs(y_test - mean) < 1.96 * std)
print(
    f"R² on {len(y_test)} test rows: {model.score(X_test, y_test):.3f}; {inside:.0%} inside the 95 % intervals"
)

functions = model.sample_y(X_test, n_samples=5, random_state=0)  # five functions drawn from the posterior
best = X_test[functions.argmax(axis=0)]
print(
    f"each of the {functions.shape[1]} functions has its own best patient: body-mass index {best[:, 2].round(2)}"
)

print(
    "learnt noise standard deviation:", round(model.noise_variance_**0.5, 1), "of", round(float(y.std()), 1)
)
print(model.solution_)
