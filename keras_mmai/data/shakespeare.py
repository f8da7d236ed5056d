"""Tiny Shakespeare (Karpathy 2015, char-rnn): 1,115,394 characters of 65 kinds, 40,000 lines of plays."""

from keras_mmai.data.prepared import prepared_version, tensorflow_datasets_on_cpu


def load_tiny_shakespeare(data_dir=None):
    """Loads the text in the three parts of tensorflow_datasets: its first 90 %, and two of 5 %. Nothing is downloaded.

    What other projects validate on, the last 10 %, is "validation" and "test" together.

    Args:
        data_dir: the folder that holds `tiny_shakespeare/<version>/`, prepared by tensorflow_datasets. When absent,
            the environment variable TFDS_DATA_DIR, then `~/tensorflow_datasets`.

    Returns:
        `{"train", "validation", "test"}`: str.

    Raises:
        FileNotFoundError: if there is no prepared folder.
    """
    version = prepared_version("tiny_shakespeare", data_dir, "Shakespeare", "")
    with tensorflow_datasets_on_cpu() as tfds:
        builder = tfds.builder_from_directory(str(version))
        parts = {}
        for split in ("train", "validation", "test"):
            (row,) = tfds.as_numpy(builder.as_dataset(split=split))
            parts[split] = row["text"].decode()
    return parts
