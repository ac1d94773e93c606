"""Nonlinear least squares for a handful of positive coefficients (numpy only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OUTLIER = 0.1
"""Relative error beyond which a sample counts linearly instead of quadratically."""
STEP = 1e-4


def fit_positive(
    predict: Callable[[dict[str, float]], Floats], measured: Floats, start: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    """Coefficients for which ``predict`` comes closest to ``measured`` in relative terms, and the loss.

    Levenberg-Marquardt (Marquardt 1963) on the logarithms of the coefficients, so that they stay positive,
    with the pseudo-Huber loss of log(predicted / measured), so that outliers do not decide.

    >>> x = np.array([1.0, 2.0, 4.0])
    >>> best, loss = fit_positive(lambda c: c["a"] + c["b"] * x, 3 + 5 * x, {"a": 1.0, "b": 1.0})
    >>> round(best["a"], 3), round(best["b"], 3)
    (3.0, 5.0)
    """
    names = list(start)

    def residuals(logs: Floats) -> Floats:
        predicted = predict(dict(zip(names, np.exp(logs).tolist(), strict=True)))
        return _pseudo_huber(np.log(predicted / measured))

    logs = np.log(np.array([start[name] for name in names]))
    now = residuals(logs)
    damping = 1e-2
    for _ in range(100):
        jacobian = np.stack(
            [(residuals(logs + STEP * unit) - now) / STEP for unit in np.eye(len(names))], axis=1
        )
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ now
        for _ in range(12):
            step = np.linalg.solve(normal + damping * np.eye(len(names)), -gradient).clip(-0.5, 0.5)
            trial = residuals(logs + step)
            if trial @ trial < now @ now:
                break
            damping *= 4
        else:
            break
        logs, now = logs + step, trial
        damping = max(damping / 3, 1e-6)
    return dict(zip(names, np.exp(logs).tolist(), strict=True)), float(now @ now) / now.size


def loss(predicted: Floats, measured: Floats) -> float:
    """What :func:`fit_positive` makes small: the mean pseudo-Huber loss of log(predicted / measured)."""
    residuals = _pseudo_huber(np.log(predicted / measured))
    return float(residuals @ residuals) / residuals.size


def _pseudo_huber(error: Floats) -> Floats:
    """Residual whose square is the pseudo-Huber loss of ``error``."""
    size: Floats = OUTLIER * np.sqrt(2 * (np.sqrt(1 + (error / OUTLIER) ** 2) - 1))
    return np.sign(error) * size
