"""Real data as numpy arrays, made data where none is at hand, and batches whose order can be resumed."""

from keras_mmai.data.arrays import ArrayDataset
from keras_mmai.data.dial_tones import dial_tones
from keras_mmai.data.mixing import mix
from keras_mmai.data.mnist import load_mnist
from keras_mmai.data.moving_mnist import moving_digits
from keras_mmai.data.notes import synthetic_audio
from keras_mmai.data.shakespeare import load_tiny_shakespeare
from keras_mmai.data.spoken_digits import load_spoken_digits
from keras_mmai.data.variations import vary_waveforms
from keras_mmai.data.wav import read_wav, write_wav

__all__ = [
    "ArrayDataset",
    "dial_tones",
    "load_mnist",
    "load_spoken_digits",
    "load_tiny_shakespeare",
    "mix",
    "moving_digits",
    "read_wav",
    "synthetic_audio",
    "vary_waveforms",
    "write_wav",
]
