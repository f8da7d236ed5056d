import keras
import numpy as np
import pytest

from keras_mmai.data import synthetic_audio
from keras_mmai.layers.fourier import mel_triangles
from keras_mmai.metrics import mel_distance, si_sdr

X = synthetic_audio(6, 4096)["waveforms"]


def noise(amplitude, seed=0):
    return X + amplitude * np.random.default_rng(seed).uniform(-1.0, 1.0, size=X.shape)


@pytest.mark.parametrize(
    "sample_rate, fft_length, stride, bins, min_freq", [(8000, 512, 128, 64, 20.0), (16000, 1024, 256, 40, 0.0)]
)
def test_equals_the_mel_spectrogram_of_keras(sample_rate, fft_length, stride, bins, min_freq):
    layer = keras.layers.MelSpectrogram(
        fft_length,
        stride,
        sampling_rate=sample_rate,
        num_mel_bins=bins,
        min_freq=min_freq,
        mag_exp=1.0,
        power_to_db=False,
    )
    y = noise(0.05).astype("float32")
    theirs = [np.log10(np.maximum(keras.ops.convert_to_numpy(layer(w[..., 0])), 1e-3)) for w in (X, y)]
    expected = np.abs(theirs[0] - theirs[1]).mean(axis=(1, 2))
    ours = mel_distance(X, y, sample_rate, fft_length, stride, bins, min_freq)
    np.testing.assert_allclose(ours, expected, rtol=2e-3)  # theirs is in float32
    matrix = layer.linear_to_mel_weight_matrix(bins, fft_length // 2 + 1, sample_rate, min_freq, sample_rate / 2)
    matrix = keras.ops.convert_to_numpy(matrix)
    np.testing.assert_allclose(mel_triangles(sample_rate, fft_length, bins, min_freq), matrix, atol=1e-4)


def test_zero_on_equals_symmetric_and_per_example():
    y = noise(0.1)
    assert (mel_distance(X, X, 8000) == 0.0).all()
    distances = mel_distance(X, y, 8000)
    assert distances.shape == (6,) and distances.dtype == np.float64 and (distances > 0).all()
    np.testing.assert_array_equal(distances, mel_distance(y, X, 8000))
    np.testing.assert_allclose(distances[2:3], mel_distance(X[2:3], y[2:3], 8000), rtol=1e-12)


def test_a_gain_of_ten_is_one_where_all_bands_are_above_the_floor():
    loud = np.random.default_rng(1).uniform(-1.0, 1.0, size=(2, 4096, 1))
    np.testing.assert_allclose(mel_distance(loud, 0.1 * loud, 8000), 1.0, rtol=1e-9)
    # Below the floor nothing counts.
    assert (mel_distance(1e-7 * loud, np.zeros_like(loud), 8000) == 0.0).all()


def test_more_noise_is_further_away():
    distances = [mel_distance(X, noise(amplitude), 8000).mean() for amplitude in (0.001, 0.01, 0.1)]
    assert distances[0] < distances[1] < distances[2]


def test_rounding_to_16_bits_lies_below_the_floor():
    silence = np.zeros((1, 8192, 1))
    rounding = np.random.default_rng(2).uniform(-0.5, 0.5, size=silence.shape) / 32768
    assert mel_distance(silence, rounding, 8000) < 0.01


def test_phase_does_not_matter_where_si_sdr_is_lost():
    time = np.arange(8192) / 8000
    a, b = (np.sin(2 * np.pi * 440 * time + phase)[None, :, None] for phase in (0.0, np.pi / 2))
    assert si_sdr(a, b) < -60.0
    octave = np.sin(2 * np.pi * 880 * time)[None, :, None]
    assert 5.0 * mel_distance(a, b, 8000) < mel_distance(a, octave, 8000)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"reference": X[..., 0], "estimate": X[..., 0]}, r"\(n, samples, 1\)"),
        ({"estimate": X[:2]}, "one shape"),
        ({"reference": X[:, :256], "estimate": X[:, :256]}, "more than fft_length / 2 = 256"),
        ({"fft_length": 511}, "fft_length=511"),
        ({"sequence_stride": 0}, "sequence_stride=0"),
        ({"num_mel_bins": 400}, "so narrow.*larger `fft_length` than 512"),
        ({"min_freq": 4000.0}, "min_freq=4000.0"),
        ({"floor": 0.0}, "floor=0.0"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        mel_distance(**{"reference": X, "estimate": X, "sample_rate": 8000, **changes})
