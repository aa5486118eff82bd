"""Fréchet distance against closed forms and an independent matrix square root."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from sg3.metrics import frechet_distance
from sg3.metrics.frechet import frechet_from_statistics, gaussian_statistics


def test_equal_features_are_at_distance_zero():
    x = np.random.RandomState(0).randn(200, 12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_a_shift_adds_its_square():
    x = np.random.RandomState(0).randn(100, 5)
    assert frechet_distance(x, x + np.array([3, 0, 4, 0, 0])) == pytest.approx(25)


def test_diagonal_covariances():
    a, b = np.array([1.0, 4, 9]), np.array([4.0, 1, 0.25])
    mean = np.zeros(3)
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_from_statistics(mean, np.diag(a), mean, np.diag(b)) == pytest.approx(expected)


def test_general_covariances_equal_sqrtm():
    random = np.random.RandomState(1)
    x = random.randn(300, 8) @ random.randn(8, 8)
    y = random.randn(300, 8) @ random.randn(8, 8) + 1
    (ma, ca), (mb, cb) = gaussian_statistics(x), gaussian_statistics(y)
    expected = np.square(ma - mb).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(ca, np.cov(x.T, bias=True))


def test_fewer_samples_than_dimensions():
    x = np.random.RandomState(2).randn(5, 40).astype(np.float32)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, 2 * x) > 1


@pytest.mark.parametrize("bad", [np.zeros([1, 3]), np.zeros(3), np.full([4, 3], np.nan)])
def test_bad_features(bad):
    with pytest.raises(ValueError, match="features"):
        frechet_distance(bad, np.zeros([4, 3]))
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(np.eye(3), np.eye(4))


def test_ill_conditioned_covariances_have_a_closed_form():
    """Eigenvalues over 12 orders of magnitude, one set of axes: where sqrtm(Σa·Σb) breaks down."""
    axes, _ = np.linalg.qr(np.random.RandomState(3).randn(64, 64))
    a = np.logspace(0, -12, 64)
    b = np.roll(a, 5)
    covariances = [(axes * spectrum) @ axes.T for spectrum in (a, b)]
    zero = np.zeros(64)
    expected = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    found = frechet_from_statistics(zero, covariances[0], zero, covariances[1])
    assert found == pytest.approx(expected, abs=1e-6)
    same = frechet_from_statistics(zero, covariances[0], zero, covariances[0])
    assert same == pytest.approx(0, abs=1e-12)
