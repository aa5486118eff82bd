"""Fréchet distance between Gaussians fitted to two sets of features (REFERENCE.md §6.2)."""

from __future__ import annotations

import numpy as np


def gaussian_statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean `[D]` and covariance `[D, D]` (divided by N) of `features` `[N, D]`, float64."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[0] < 2:
        raise ValueError(
            f"features: got shape {list(features.shape)}, expected [N, D] with N at least 2"
        )
    if not np.isfinite(features).all():
        raise ValueError("features: contain NaN or infinity")
    mean = features.mean(axis=0)
    centred = features - mean
    return mean, centred.T @ centred / features.shape[0]


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Return `F` with `F·Fᵀ = covariance`; eigenvalues negative from rounding count as 0."""
    # eigh reads only one triangle: average the two, which differ by rounding.
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * np.sqrt(np.clip(values, 0, None))


def frechet_from_statistics(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Return ‖μa − μb‖² + tr(Σa + Σb − 2(Σa·Σb)^½).

    With Σ = F·Fᵀ the eigenvalues of Σa·Σb are the squared singular values of FaᵀFb. So
    tr (Σa·Σb)^½ is the nuclear norm of a real matrix, which avoids the complex square root of a
    matrix and is exact for singular covariances (fewer samples than dimensions) too.

    Args:
        mean_a: `[D]`.
        covariance_a: `[D, D]`.
        mean_b: `[D]`.
        covariance_b: `[D, D]`.
    """
    if np.shape(mean_a) != np.shape(mean_b):
        raise ValueError(
            f"features: got {np.size(mean_a)} and {np.size(mean_b)} dimensions, expected the same"
        )
    cross = np.linalg.svd(_factor(covariance_a).T @ _factor(covariance_b), compute_uv=False)
    shift = np.square(np.asarray(mean_a) - np.asarray(mean_b)).sum()
    distance = shift + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross.sum()
    # Rounding can make the distance of equal sets slightly negative.
    return float(max(distance, 0.0))


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the Fréchet distance of features `[N, D]` and `[M, D]`."""
    return frechet_from_statistics(
        *gaussian_statistics(features_a), *gaussian_statistics(features_b)
    )
