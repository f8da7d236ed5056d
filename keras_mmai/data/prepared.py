"""Sets of tensorflow_datasets that lie prepared in a folder: where they are, and TensorFlow kept in its place.

Finding a set reads no file and needs no TensorFlow; only who reads one imports it.
"""

import contextlib
import os
from pathlib import Path


def prepared_root(data_dir=None):
    """The folder of all prepared sets: `data_dir`, or TFDS_DATA_DIR, or `~/tensorflow_datasets`."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def newest_version(root, name):
    """The folder of the newest prepared version of the set `name` under `root`, None if there is none."""
    folders = [info.parent for info in Path(root).glob(f"{name}/*/dataset_info.json")]
    versions = [folder for folder in folders if folder.name.replace(".", "").isdigit()]  # not an interrupted download
    return max(versions, key=lambda folder: [int(n) for n in folder.name.split(".")], default=None)


def prepared_version(name, data_dir, what, instead):
    """The folder of the newest prepared version of the set `name`.

    Raises:
        FileNotFoundError: if there is none: no prepared `what`, where it was looked for, and what to do `instead`.
    """
    root = prepared_root(data_dir)
    version = newest_version(root, name)
    if version is None:
        raise FileNotFoundError(
            f"No prepared {what}: expected `{root / name / '<version>' / 'dataset_info.json'}`; give `data_dir` (or "
            f"set TFDS_DATA_DIR to) the folder that holds `{name}/`{instead}."
        )
    return version


@contextlib.contextmanager
def tensorflow_datasets_on_cpu():
    """Gives the module tensorflow_datasets; what is read inside stays off the GPU."""
    # Imported here and not above: they take seconds, and JAX and PyTorch users may never need them.
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # By default TensorFlow claims all memory of a GPU that JAX or PyTorch may be about to use.
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # already in use, so already decided
            tf.config.experimental.set_memory_growth(gpu, True)

    with tf.device("CPU:0"):
        yield tfds
