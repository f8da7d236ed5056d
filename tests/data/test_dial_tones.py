import numpy as np
import pytest

from keras_mmai.data import dial_tones
from keras_mmai.data.dial_tones import TONES

DIGITS = np.arange(10).repeat(5)


def test_the_standard_frequencies():
    assert TONES.tolist()[0] == [941, 1336] and TONES.tolist()[1] == [697, 1209] and TONES.tolist()[9] == [852, 1477]
    assert len(np.unique(TONES, axis=0)) == 10


def test_every_row_holds_its_two_tones():
    x = dial_tones(DIGITS)
    assert x.shape == (50, 2048, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    spectrum = np.abs(np.fft.rfft(x[..., 0], axis=1))
    frequencies = np.fft.rfftfreq(2048, 1 / 8000)
    for row, tones in zip(spectrum, TONES[DIGITS]):
        low, high = (row * (band[0] < frequencies) * (frequencies < band[1]) for band in ((600, 1075), (1075, 1600)))
        assert np.abs(frequencies[[low.argmax(), high.argmax()]] - tones).max() < 15


def test_rows_vary_and_do_not_depend_on_others():
    x = dial_tones(DIGITS)
    assert len(np.unique(x[:5, 1000])) == 5
    np.testing.assert_array_equal(dial_tones(DIGITS), x)
    np.testing.assert_array_equal(dial_tones(DIGITS[:7]), x[:7])
    assert (dial_tones(DIGITS, seed=1) != x).any()
    loud = np.abs(x[..., 0]) > 0.1
    lengths = 2048 - loud.argmax(1) - loud[:, ::-1].argmax(1)
    assert lengths.min() < 1500 and lengths.max() > 1700


@pytest.mark.parametrize(
    "arguments, word",
    [
        (dict(digits=[10]), "0..9"),
        (dict(digits=[[1]]), "one axis"),
        (dict(digits=[0.5]), "ints"),
        (dict(digits=[1], num_samples=0), "num_samples"),
        (dict(digits=[1], sample_rate=2000), "sample_rate"),
    ],
)
def test_bad_input(arguments, word):
    with pytest.raises(ValueError, match=word):
        dial_tones(**arguments)
