import numpy as np
import pytest
from codebook import numbers
from keras import ops

from keras_mmai.layers import SEANetDecoder, SEANetEncoder
from keras_mmai.layers.fourier import FLOOR, FourierAnalysis, FourierSynthesis


def spectra(features, num_bins):
    """Amplitudes and phases that the features of an analysis tell."""
    loudness, real, imaginary = np.split(numbers(features), [num_bins, 2 * num_bins], axis=-1)
    return np.exp((loudness - 1) * -np.log(FLOOR) / 2), np.arctan2(imaginary, real)


@pytest.mark.parametrize("hop", [2, 8, 32])
@pytest.mark.parametrize("causal", [False, True])
def test_a_waveform_comes_back_from_its_spectra(hop, causal):
    analysis, synthesis = FourierAnalysis(hop, causal), FourierSynthesis(hop, causal)
    x = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 16 * hop, 1)).astype("float32")
    features = analysis(x)
    assert tuple(features.shape) == (2, 16, 3 * (2 * hop + 1)) == analysis.compute_output_shape(x.shape)
    amplitudes, phases = spectra(features, analysis.num_bins)
    y = numbers(synthesis(np.concatenate([np.log(amplitudes) + 6, phases], axis=-1)))
    assert y.shape == x.shape
    late = 3 * hop if causal else 0  # what is written in a frame is heard after it was seen
    inner = slice(3 * hop + late, 13 * hop)
    np.testing.assert_allclose(y[:, inner], np.roll(x, late, axis=1)[:, inner], atol=5e-3)  # the floor


def test_a_sine_has_its_amplitude():
    layer = FourierAnalysis(32)
    x = 0.5 * np.sin(2 * np.pi * 10 * np.arange(1024) / 128)[None, :, None]
    amplitudes, _ = spectra(layer(x.astype("float32")), layer.num_bins)
    np.testing.assert_allclose(amplitudes[0, 8, [9, 10, 11]], [0.25, 0.5, 0.25], rtol=1e-2)


def test_silence_has_a_gradient(gradients):
    layer = FourierAnalysis(4)
    _, (found,) = gradients(lambda x: ops.sum(layer(x)), [np.zeros((1, 32, 1), "float32")])
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FourierAnalysis(3), "`hop` must be even and positive. Received: hop=3"),
        (lambda: FourierAnalysis(4)(np.zeros((1, 10, 1))), r"multiple of hop=4 samples. Received: \(1, 10, 1\)"),
        (lambda: FourierAnalysis(4)(np.zeros((1, 8, 2))), r"Spectra are of waveforms .*Received: \(1, 8, 2\)"),
        (lambda: FourierSynthesis(4)(np.zeros((1, 8, 17))), r"Spectra are \('b', 'n', 18\). Received: \(1, 8, 17\)"),
        (lambda: SEANetEncoder(2, 3, (2,), fourier=True), "an even int. Received: patch_size=1"),
        (lambda: SEANetEncoder(2, 3, (2,), patch_size=(4,), fourier=True), r"an even int. Received: patch_size=\(4,\)"),
        (
            lambda: SEANetDecoder(2, 3, (2,), patch_size=4, fourier=True)(np.zeros((1, 8, 5))),
            "Spectra make one channel: output_dim=1. Received: output_dim=3",
        ),
    ],
)
def test_spectra_that_can_not_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("fourier", [False, True])
def test_patches_divide_the_signal(fourier):
    sizes = dict(strides=(2, 3), patch_size=4, fourier=fourier)
    z = SEANetEncoder(2, 5, **sizes)(np.zeros((1, 96, 1), "float32"))
    assert tuple(z.shape) == (1, 4, 5)
    assert tuple(SEANetDecoder(2, 1, **sizes)(z).shape) == (1, 96, 1)


def test_errors_teach():
    with pytest.raises(ValueError, match=r"`hop` must be even and positive\. Received: hop=3"):
        FourierAnalysis(3)
    with pytest.raises(ValueError, match=r"waveforms \('b', 't', 1\). Received: \(1, 8, 2\)"):
        FourierAnalysis(4)(np.zeros((1, 8, 2), "float32"))
    with pytest.raises(ValueError, match=r"\('b', 'n', 18\). Received: \(1, 8, 2\)"):
        FourierSynthesis(4)(np.zeros((1, 8, 2), "float32"))
