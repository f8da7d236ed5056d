import numpy as np
import pytest

from keras_mmai.metrics import frechet_distance


def features(n, d, seed=0, mean=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * scale
    return rng.normal(size=(n, d)) @ mixing + mean


def with_moments(mean, std):
    """Rows whose sample mean and covariance are exactly `mean` and diag(std^2)."""
    d = len(mean)
    corners = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt((2 * d - 1) / 2)
    return corners * std + mean


def test_closed_form_of_diagonal_gaussians():
    # d^2 = |m - m_w|^2 + |s - s_w|^2, Dowson & Landau 1982.
    a, b = (
        (np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.5])),
        (np.array([1.0, -1.0, 2.0]), np.array([3.0, 2.0, 0.0])),
    )
    expected = np.sum((a[0] - b[0]) ** 2) + np.sum((a[1] - b[1]) ** 2)
    np.testing.assert_allclose(frechet_distance(with_moments(*a), with_moments(*b)), expected, rtol=1e-12)


def test_equals_the_matrix_square_root_of_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = features(200, 12, seed=1), features(150, 12, seed=2, mean=0.3)
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)


def test_zero_on_equal_sets_symmetric_and_a_shift_costs_its_square():
    a, b = features(60, 8, seed=3), features(50, 8, seed=4)
    assert frechet_distance(a, a) < 1e-10
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(a, a + 2.0), 8 * 4.0, rtol=1e-10)


def test_fewer_samples_than_features():
    a = features(5, 40, seed=5)
    assert frechet_distance(a, a) < 1e-10 * np.trace(np.cov(a.T))


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros((4, 2, 2)), np.zeros((4, 2)), r"features_a.*\(4, 2, 2\)"),
        (np.zeros((4, 2)), np.zeros((1, 2)), "features_b.*n >= 2"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "one width d"),
        (np.zeros((4, 2)), np.array([[0.0, np.nan], [0.0, 1.0]]), "1 of 2 rows"),
    ],
)
def test_errors(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
