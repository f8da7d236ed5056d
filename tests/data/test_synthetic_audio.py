import numpy as np
import pytest

from keras_mmai.data import synthetic_audio
from keras_mmai.data.notes import ROWS_AT_ONCE


def loudest_frequency(x, sample_rate):
    """Of each row, in Hz, to a tenth of the resolution of the transform."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(x.shape[1]), n=8 * x.shape[1]))
    return spectrum.argmax(axis=1) * sample_rate / (8 * x.shape[1])


def test_shapes_ranges_and_labels():
    audio = synthetic_audio(40, 4096)
    x, labels = audio["waveforms"], audio["labels"]
    assert x.shape == (40, 4096, 1) and x.dtype == np.float32
    assert labels.dtype == np.int32 and labels.tolist() == 4 * list(range(10))
    assert np.abs(x).max(axis=(1, 2)).min() > 0.2 and np.abs(x).max() <= 1.0
    assert len({row.tobytes() for row in x}) == 40
    assert np.abs(x[:, 0]).max() == 0.0  # no click
    assert (np.square(x[:, 1024:2048]).mean(axis=(1, 2)) > 2 * np.square(x[:, 3072:]).mean(axis=(1, 2))).all()  # decays


def test_the_pitch_of_a_steady_tone_is_that_of_its_label():
    audio = synthetic_audio(10, 8192, seed=3)
    heard = loudest_frequency(audio["waveforms"][..., 0], 8000)
    pitches = 220.0 * 2.0 ** (audio["labels"] / 4.0)
    harmonic = np.rint(heard / pitches)  # the second harmonic may be the loudest
    assert set(harmonic) <= {1.0, 2.0}
    np.testing.assert_allclose(heard / harmonic, pitches, atol=1.0)


def test_a_chirp_begins_at_its_pitch_and_leaves_it():
    audio = synthetic_audio(20, 32768, 16000)
    x, pitches = audio["waveforms"][10:, :, 0], 220.0 * 2.0 ** (audio["labels"][10:] / 4.0)

    def octaves(part):
        heard = loudest_frequency(part, 16000)
        return np.log2(heard / pitches / np.rint(heard / pitches))

    assert np.abs(octaves(x[:, :2048])).max() < 0.05
    change = np.log2(loudest_frequency(x[:, -2048:], 16000) / loudest_frequency(x[:, :2048], 16000))
    assert np.abs(change).max() > 0.2


def test_rows_depend_on_seed_and_place_alone():
    few, many = synthetic_audio(5, 512), synthetic_audio(ROWS_AT_ONCE + 5, 512)
    np.testing.assert_array_equal(few["waveforms"], many["waveforms"][:5])
    np.testing.assert_array_equal(many["waveforms"], synthetic_audio(ROWS_AT_ONCE + 5, 512)["waveforms"])
    assert not np.array_equal(few["waveforms"], synthetic_audio(5, 512, seed=1)["waveforms"])


def test_nothing_is_above_half_the_sample_rate():
    """The fourth harmonic of 1047 Hz would fold back to 3814 Hz at 8 kHz."""
    audio = synthetic_audio(10, 8192)
    spectrum = np.abs(np.fft.rfft(audio["waveforms"][9, :, 0] * np.hanning(8192)))
    hertz = np.arange(4097) * 8000 / 8192
    assert spectrum[np.abs(hertz - 3814) < 20].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize(
    "arguments, message", [((0, 8), "n=0"), ((8, 0), "num_samples=0"), ((8, 8, 2000), "at least 4000 Hz.*2000")]
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_audio(*arguments)
