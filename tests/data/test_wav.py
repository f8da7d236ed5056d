import os
import struct
import wave

import numpy as np
import pytest

from keras_mmai.data import read_wav, write_wav

X = np.random.default_rng(0).uniform(-1.0, 1.0, size=(1000, 2)).astype("float32")


@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(tmp_path, channels):
    path = tmp_path / "folder" / "a.wav"
    write_wav(path, X[:, :channels], 8000)
    assert [file.name for file in path.parent.iterdir()] == ["a.wav"]
    back = read_wav(path, 8000)
    assert back.shape == (1000, channels) and back.dtype == np.float32
    np.testing.assert_allclose(back, X[:, :channels], rtol=0, atol=0.5 / 32768 + 1e-9)
    write_wav(path, back, 8000)
    np.testing.assert_array_equal(read_wav(path, 8000), back)


def test_the_extremes(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([[-1.0], [0.0], [1.0]]), 8000)
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav", 8000)[:, 0], [-1.0, 0.0, 32767 / 32768])


def test_the_bytes_are_those_of_the_format(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([[0.5, -0.25], [0.0, 1 / 32768]]), 16000)
    data = struct.pack("<4h", 16384, -8192, 0, 1)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 44, b"WAVE", b"fmt ", 16, 1, 2, 16000, 64000, 4, 16, b"data", 8)
    assert (tmp_path / "a.wav").read_bytes() == header + data


def test_another_sample_rate_is_an_error_that_names_both(tmp_path):
    write_wav(tmp_path / "a.wav", X, 44100)
    with pytest.raises(ValueError, match=r"44100 Hz, expected 8000 Hz\. Resample"):
        read_wav(tmp_path / "a.wav", 8000)


def test_what_is_no_16_bit_pcm(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(b"\x80" * 10)
    with pytest.raises(ValueError, match="8 bits per sample, expected 16"):
        read_wav(path, 8000)
    path.write_bytes(b"not a sound")
    with pytest.raises(ValueError, match="not a WAV file"):
        read_wav(path, 8000)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="too early"):
        read_wav(path, 8000)
    write_wav(path, X, 8000)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="900 of 1000 samples"):
        read_wav(path, 8000)
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "none.wav", 8000)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_wav(path, X, 8000)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_wav(path, 0.5 * X, 8000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    "x, sample_rate, message",
    [
        (X[:, 0], 8000, r"mono is \(samples, 1\).*\(1000,\)"),
        (X[:0], 8000, "not empty"),
        (1.5 * X, 8000, r"np\.clip"),
        (np.full((3, 1), np.nan), 8000, "finite"),
        (np.zeros((3, 1), "int16"), 8000, "divided by 32768"),
        (X, 0, "whole number of Hz"),
        (X, 8000.5, "whole number of Hz"),
    ],
)
def test_errors_write_nothing(tmp_path, x, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        write_wav(tmp_path / "a.wav", x, sample_rate)
    assert not list(tmp_path.iterdir())
