"""Real data as numpy arrays, and batches whose order can be resumed."""

from keras_mmai.data.arrays import ArrayDataset
from keras_mmai.data.mnist import load_mnist

__all__ = ["ArrayDataset", "load_mnist"]
