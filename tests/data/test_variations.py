import numpy as np
import pytest

from keras_mmai.data import vary_waveforms


def tone(frequency=0.02, samples=1000):
    """(1, samples, 1): half a second of a tone, then silence."""
    x = 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples)) * (np.arange(samples) < samples // 2)
    return x[None, :, None].astype("float32")


def test_the_waveforms_come_first_and_copies_differ():
    x = np.concatenate([tone(), tone(0.05)])
    varied = vary_waveforms(x, copies=2)
    assert varied.shape == (6, 1000, 1) and varied.dtype == "float32"
    np.testing.assert_array_equal(varied[:2], x)
    assert len({row.tobytes() for row in varied}) == 6
    np.testing.assert_array_equal(varied, vary_waveforms(x, copies=2))
    assert (varied[2:] != vary_waveforms(x, copies=2, seed=1)[2:]).any()
    np.testing.assert_array_equal(vary_waveforms(x, copies=0), x)


def test_a_copy_begins_later():
    starts = [np.argmax(row[:, 0] != 0) for row in vary_waveforms(tone(), 50, delay=100, speed=0, gain=0)[1:]]
    assert 0 <= min(starts) < 20 and 80 < max(starts) <= 102


def test_a_copy_is_faster_or_slower():
    """By the length of what sounds, and by its pitch."""
    ends = [np.flatnonzero(row[:, 0])[-1] for row in vary_waveforms(tone(), 50, delay=0, speed=0.2, gain=0)[1:]]
    assert 500 / 1.2 - 5 < min(ends) < 450 and 560 < max(ends) < 500 / 0.8 + 5
    for row, end in zip(vary_waveforms(tone(), 50, delay=0, speed=0.2, gain=0)[1:], ends):
        crossings = np.sum(np.diff(np.sign(row[1:end, 0])) != 0)
        assert abs(crossings - 19) <= 1  # as many periods, whatever they last


def test_a_copy_is_louder_or_softer():
    peaks = [np.abs(row).max() for row in vary_waveforms(tone(), 50, delay=0, speed=0, gain=0.4)[1:]]
    assert 0.3 - 1e-6 <= min(peaks) < 0.36 and 0.64 < max(peaks) <= 0.7 + 1e-6
    assert np.abs(vary_waveforms(2 * tone(), 20, gain=0.9)).max() == 1.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vary_waveforms(tone()[0]), r"\(n, samples, channels\). Received shape: \(1000, 1\)"),
        (lambda: vary_waveforms(tone(), copies=-1), "copies=-1"),
        (lambda: vary_waveforms(tone(), speed=1.0), "speed=1.0"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
