"""The Free Spoken Digit Dataset (Jackson et al. 2018, https://github.com/Jakobovski/free-spoken-digit-dataset).

Recordings of the ten English digits at 8 kHz by six speakers, 50 of each digit by each: 3,000, of 0.14 s to 2.3 s. A
file is called `{digit}_{speaker}_{index}.wav`, and its authors' split is by that name: index 0 to 4 is the test.
"""

import numpy as np

from keras_mmai.data.prepared import prepared_version, tensorflow_datasets_on_cpu

SAMPLE_RATE = 8000
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST_INDICES = 5


def load_spoken_digits(data_dir=None, num_samples=8192):
    """Loads the 2,700 training and 300 test recordings. Nothing is downloaded.

    Rows are in a fixed order that mixes digits and speakers, whatever the order in the folder. Earlier releases have
    fewer speakers, so fewer rows.

    Args:
        data_dir: the folder that holds `spoken_digit/<version>/`, prepared by tensorflow_datasets. When absent, the
            environment variable TFDS_DATA_DIR, then `~/tensorflow_datasets`.
        num_samples: samples in a row. Shorter recordings are followed by zeros, longer ones lose their end: 17 of
            3,000 at 8192 (1.02 s).

    Returns:
        `{"train": split, "test": split, "sample_rate": 8000}`, where a split is `{"waveforms", "labels", "speakers",
        "lengths"}`: float32 `(n, num_samples, 1)` in [-1, 1]; int32 `(n,)`, the digit; int32 `(n,)`, which of
        `SPEAKERS` (`george, jackson, lucas, nicolas, theo, yweweler`); and int32 `(n,)`, the samples of the row before
        the zeros, at most `num_samples`. `np.arange(num_samples) < lengths[:, None]` is the mask.

    Raises:
        FileNotFoundError: if there is no prepared folder.
    """
    if num_samples < 1:
        raise ValueError(f"`num_samples` must be at least 1. Received: num_samples={num_samples}")
    instead = ", or use `keras_mmai.data.synthetic_audio`, which needs no file"
    version = prepared_version("spoken_digit", data_dir, "spoken digits", instead)
    recordings = _read(version)
    names = sorted(recordings)
    # By name, a split would be sorted by digit. RandomState's stream is frozen by numpy: the same order for ever.
    names = [names[i] for i in np.random.RandomState(0).permutation(len(names))]
    is_test = {name: _parts(name)[2] < TEST_INDICES for name in names}
    return {
        "train": _split({name: recordings[name] for name in names if not is_test[name]}, num_samples),
        "test": _split({name: recordings[name] for name in names if is_test[name]}, num_samples),
        "sample_rate": SAMPLE_RATE,
    }


def _read(version):
    """{file name: int64 (samples,), 16-bit values}, one by one as their lengths differ."""
    with tensorflow_datasets_on_cpu() as tfds:
        dataset = tfds.builder_from_directory(str(version)).as_dataset(split="train", shuffle_files=False)
        return {row["audio/filename"].decode(): row["audio"] for row in tfds.as_numpy(dataset)}


def _parts(name):
    """`"7_theo_12.wav"` to the digit 7, the place of theo in SPEAKERS, and 12."""
    digit, speaker, index = name.removesuffix(".wav").split("_")
    if speaker not in SPEAKERS:
        raise ValueError(f"`{name}` has an unknown speaker. Known are: {', '.join(SPEAKERS)}")
    return int(digit), SPEAKERS.index(speaker), int(index)


def _split(recordings, num_samples):
    waveforms = np.zeros((len(recordings), num_samples, 1), "float32")
    for row, samples in zip(waveforms, recordings.values()):
        row[: len(samples), 0] = samples[:num_samples] / 32768.0  # 16 bits to [-1, 1)
    digits, speakers, _ = np.array([_parts(name) for name in recordings], "int32").reshape(-1, 3).T
    lengths = [min(len(samples), num_samples) for samples in recordings.values()]
    return {
        "waveforms": waveforms,  # (n, num_samples, 1)
        "labels": digits,  # (n,)
        "speakers": speakers,  # (n,)
        "lengths": np.array(lengths, "int32"),  # (n,)
    }
