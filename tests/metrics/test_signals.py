import numpy as np
import pytest

from keras_mmai.metrics import psnr, si_sdr

RNG = np.random.default_rng(0)
S = RNG.normal(size=(4, 1000, 1))
NOISY = S + 0.3 * RNG.normal(size=S.shape)


def test_si_sdr_by_hand():
    # The noise is orthogonal to s and has a tenth of its amplitude: 20 dB. At the same amplitude 0 dB.
    s, noise = np.array([[1.0, 1.0, 1.0, 1.0]]), np.array([[1.0, -1.0, 1.0, -1.0]])
    np.testing.assert_allclose(si_sdr(s, s + 0.1 * noise), [20.0], atol=1e-12)
    np.testing.assert_allclose(si_sdr(s, s + noise), [0.0], atol=1e-12)
    # s_hat = (1, 0) against s = (1, 1): alpha = 1/2, target (1/2, 1/2), rest (1/2, -1/2).
    np.testing.assert_allclose(si_sdr([[1.0, 1.0]], [[1.0, 0.0]]), [0.0], atol=1e-12)


def test_si_sdr_does_not_see_the_scale_of_either():
    decibels = si_sdr(S, NOISY)
    assert decibels.shape == (4,) and decibels.dtype == np.float64
    np.testing.assert_allclose(decibels, -20.0 * np.log10(0.3), atol=0.5)
    for scale in (1e-3, -1.0, 50.0):
        np.testing.assert_allclose(si_sdr(S, scale * NOISY), decibels, rtol=1e-9)
        np.testing.assert_allclose(si_sdr(scale * S, NOISY), decibels, rtol=1e-9)


def test_si_sdr_of_a_multiple_is_as_large_as_rounding_allows():
    assert (si_sdr(S, S) == np.inf).all()
    assert (si_sdr(S, 4.0 * S) == np.inf).all()
    assert si_sdr(S, 0.3 * S).min() > 250.0


def test_si_sdr_of_silence_and_of_the_orthogonal():
    assert (si_sdr(S, np.zeros_like(S)) == -np.inf).all()
    assert si_sdr([[1.0, 0.0]], [[0.0, 1.0]]) == [-np.inf]
    with pytest.raises(ValueError, match=r"silent reference.*\[1\]"):
        si_sdr(np.array([[1.0, 2.0], [0.0, 0.0]]), np.ones((2, 2)))


def test_si_sdr_lets_a_gain_go_that_psnr_counts():
    assert psnr(S, 0.5 * S, 2.0).max() < 20.0 < si_sdr(S, 0.5 * S).min()


def test_psnr_by_hand():
    x = np.zeros((2, 4, 4, 1))
    # An error of 0.2 in a range of 2 is a tenth: 20 dB. In a range of 1, 6.02 dB less.
    np.testing.assert_allclose(psnr(x, x + 0.2), [20.0, 20.0], atol=1e-12)
    np.testing.assert_allclose(psnr(x, x + 0.2, data_range=1.0), 20.0 - 20.0 * np.log10(2.0), atol=1e-12)
    one = x.copy()
    one[1, 0, 0] = 2.0  # one pixel of 16 is wrong by the whole range
    np.testing.assert_allclose(psnr(x, one), [np.inf, 10.0 * np.log10(16.0)], atol=1e-12)


def test_psnr_takes_any_rank():
    for shape in ((3, 8), (3, 8, 1), (3, 2, 2, 2, 1)):
        assert psnr(np.zeros(shape), np.ones(shape)).shape == (3,)


@pytest.mark.parametrize("metric", [si_sdr, psnr])
def test_errors(metric):
    with pytest.raises(ValueError, match=r"one shape.*\(4, 1000, 1\) and \(1, 1000, 1\)"):
        metric(S, S[:1])
    with pytest.raises(ValueError, match=r"one example is \(1, \.\.\.\)"):
        metric(S[0, :, 0], S[0, :, 0])
    with pytest.raises(ValueError, match="not be empty"):
        metric(S[:0], S[:0])
    with pytest.raises(ValueError, match="`estimate` must be finite: 1 of 4"):
        metric(S, np.where(np.arange(4)[:, None, None] == 2, np.nan, S))


def test_a_range_is_positive():
    with pytest.raises(ValueError, match=r"2\.0 for data in"):
        psnr(S, S, data_range=0.0)
