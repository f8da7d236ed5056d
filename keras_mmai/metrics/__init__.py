"""How good are samples and reconstructions? Numbers from numpy arrays, after the model has run."""

from keras_mmai.metrics.coherence import coherence
from keras_mmai.metrics.cross_entropy import bernoulli_floor, binary_cross_entropy
from keras_mmai.metrics.diversity import class_entropy, within_class_spread
from keras_mmai.metrics.frechet import frechet_distance
from keras_mmai.metrics.judge import train_judge
from keras_mmai.metrics.mel import mel_distance
from keras_mmai.metrics.probe import linear_probe
from keras_mmai.metrics.signals import psnr, si_sdr

__all__ = [
    "bernoulli_floor",
    "binary_cross_entropy",
    "class_entropy",
    "coherence",
    "frechet_distance",
    "linear_probe",
    "mel_distance",
    "psnr",
    "si_sdr",
    "train_judge",
    "within_class_spread",
]
