"""The data and the judges of examples/any_to_any.py, for the benchmarks that stand beside it."""

import numpy as np

from keras_mmai import metrics
from keras_mmai.data import dial_tones, load_mnist

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8000


def signals(num_train=None, num_test=None):
    """Image, sound and word of the training and the test digits: two pairs of signals by name and labels (n,)."""
    parts = []
    for seed, (part, count) in enumerate((("train", num_train), ("test", num_test))):
        digits = load_mnist()[part]
        labels = digits["labels"]
        sounds = dial_tones(labels, 2048, RATE, seed=seed)[:count]
        words = [WORDS[label] for label in labels[:count]]
        parts.append(({"image": digits["images"][:count], "sound": sounds, "word": words}, labels[:count]))
    return parts


def named(words):
    """Texts to digits; -1 is no word."""
    return np.array([WORDS.index(word) if word in WORDS else -1 for word in words])


def judges(train, labels, epochs):
    """Classifiers of image and sound, and what reads a word."""
    rates = {"image": None, "sound": RATE}
    found = {name: metrics.train_judge(train[name], labels, epochs, sample_rate=rate) for name, rate in rates.items()}
    return {**found, "word": named}
