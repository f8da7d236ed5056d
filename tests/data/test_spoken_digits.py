import numpy as np
import pytest

from keras_mmai.data import load_spoken_digits
from keras_mmai.data.spoken_digits import SPEAKERS


@pytest.fixture(scope="module")
def load():
    """One reading of the folder for all tests of a length."""
    kept = {}

    def load(folder, num_samples):
        if num_samples not in kept:
            kept[num_samples] = load_spoken_digits(folder, num_samples)
        return kept[num_samples]

    return load


@pytest.fixture
def prepared(shared):
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "spoken_digit").is_dir():
        pytest.skip("no prepared spoken digits")
    return folder


def test_the_split_of_the_authors(prepared, load):
    digits = load(prepared, 8192)
    assert digits["sample_rate"] == 8000
    for split, num_rows in (("train", 2700), ("test", 300)):
        rows = digits[split]
        assert rows["waveforms"].shape == (num_rows, 8192, 1) and rows["waveforms"].dtype == np.float32
        assert {rows[name].dtype.name for name in ("labels", "speakers", "lengths")} == {"int32"}
        # Every speaker has said every digit equally often.
        pairs = np.bincount(10 * rows["speakers"] + rows["labels"], minlength=60)
        assert pairs.tolist() == [num_rows // 60] * 60
        # Samples that are 16-bit integers over 32768, and those of the whole range.
        integers = rows["waveforms"] * 32768
        assert (integers == np.rint(integers)).all() and integers.min() >= -32768 and integers.max() <= 32767
    assert min(digits[split]["waveforms"].min() for split in ("train", "test")) == -1.0
    train, test = ({row.tobytes() for row in digits[split]["waveforms"]} for split in ("train", "test"))
    assert not train & test


def test_rows_are_the_recordings_of_the_folder_with_their_labels(prepared, load):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(prepared / "spoken_digit" / "1.0.9"))
    theirs = {}
    for row in tfds.as_numpy(builder.as_dataset(split="train")):
        _, speaker, index = row["audio/filename"].decode()[: -len(".wav")].split("_")
        split = "test" if int(index) < 5 else "train"
        theirs[split, (row["audio"] / 32768).astype("float32").tobytes()] = (int(row["label"]), speaker)
    digits, seen = load(prepared, 20000), set()  # longer than the longest
    for split in ("train", "test"):
        rows = digits[split]
        for x, label, speaker, length in zip(*(rows[k] for k in ("waveforms", "labels", "speakers", "lengths"))):
            assert theirs[split, x[:length].tobytes()] == (label, SPEAKERS[speaker])
            assert not x[length:].any()
            seen.add((split, x[:length].tobytes()))
    assert seen == theirs.keys()


def test_a_shorter_row_is_the_beginning_and_its_length_says_so(prepared, load):
    whole, cut = load(prepared, 20000)["test"], load(prepared, 2000)["test"]
    np.testing.assert_array_equal(cut["waveforms"], whole["waveforms"][:, :2000])
    np.testing.assert_array_equal(cut["lengths"], np.minimum(whole["lengths"], 2000))
    assert whole["lengths"].min() < 2000 < whole["lengths"].max()
    np.testing.assert_array_equal(cut["labels"], whole["labels"])


def test_the_order_is_fixed_and_mixed(prepared, load):
    test = load(prepared, 8192)["test"]
    assert test["labels"][:10].tolist() == [2, 9, 4, 2, 2, 3, 5, 1, 7, 9]
    assert len(set(test["speakers"][:30].tolist())) == 6


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_missing_folder_is_an_error_that_says_what_to_set(tmp_path, monkeypatch, by_environment):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path if by_environment else "elsewhere"))
    (tmp_path / "spoken_digit" / "1.0.9.incompleteABC").mkdir(parents=True)
    (tmp_path / "spoken_digit" / "1.0.9.incompleteABC" / "dataset_info.json").touch()
    with pytest.raises(FileNotFoundError, match=r"TFDS_DATA_DIR.*synthetic_audio") as error:
        load_spoken_digits(None if by_environment else tmp_path)
    assert str(tmp_path) in str(error.value)


def test_rows_need_a_sample():
    with pytest.raises(ValueError, match="num_samples=0"):
        load_spoken_digits(num_samples=0)
