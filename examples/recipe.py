"""What the recipes of this folder share: their arguments, the seconds of each phase, the training, the report."""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_mmai
from keras_mmai import metrics
from keras_mmai.data import ArrayDataset, dial_tones, load_mnist, load_spoken_digits, vary_waveforms

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE = 8000


def digit_signals(num_train=None, num_test=None):
    """Image, sound (the tones of a telephone key, of its own in each row) and word of the training and the test digits
    of `load_mnist`, or as many of them. Two pairs of signals and labels."""
    parts = []
    for seed, (digits, count) in enumerate(zip(load_mnist().values(), (num_train, num_test))):
        labels = digits["labels"][:count]
        sounds = dial_tones(digits["labels"], 2048, RATE, seed=seed)[:count]
        parts.append(({"image": digits["images"][:count], "sound": sounds, "word": [WORDS[n] for n in labels]}, labels))
    return parts


def spoken_digit_signals(num_samples, count=None):
    """Image, sound (a recording of the same digit) and word of MNIST's 60,000 training digits, or `count` of them, and
    of a test digit for each of the 300 test recordings; a training recording is varied for each image. Two pairs of
    signals and labels."""
    digits, spoken = load_mnist("tfds"), load_spoken_digits(num_samples=num_samples)

    def rows_alike(labels, others):
        random, rows = np.random.RandomState(0), np.zeros(len(labels), int)
        for label in range(10):
            rows[labels == label] = random.choice(np.flatnonzero(others == label), np.sum(labels == label))
        return rows

    train, train_labels = digits["train"]["images"][:count], digits["train"]["labels"][:count]
    recordings = spoken["train"]["waveforms"][rows_alike(train_labels, spoken["train"]["labels"])]
    parts = np.array_split(recordings, 1 + len(recordings) // 5000)  # of which a copy each is kept
    heard = np.concatenate([vary_waveforms(part, 1, seed=i)[len(part) :] for i, part in enumerate(parts)])
    test_labels = spoken["test"]["labels"]
    test = digits["test"]["images"][rows_alike(test_labels, digits["test"]["labels"])]
    parts = (train, heard, train_labels), (test, spoken["test"]["waveforms"], test_labels)
    return [({"image": i, "sound": s, "word": [WORDS[n] for n in labels]}, labels) for i, s, labels in parts]


def named(words):
    """Texts to digits; -1 is no word."""
    return np.array([WORDS.index(word) if word in WORDS else -1 for word in words])


def digit_judges(signals, labels, epochs):
    """Classifiers of image and sound, and what reads a word."""
    judge = metrics.train_judge
    image, sound = judge(signals["image"], labels, epochs), judge(signals["sound"], labels, epochs, sample_rate=RATE)
    return {"image": image, "sound": sound, "word": named}


def mean_with_error(x):
    """The mean of measurements (n,) and its standard error."""
    return {"mean": float(np.mean(x)), "standard error": float(np.std(x) / len(x) ** 0.5)}


def muon(steps, peak, warm, **options):
    """Muon, whose rate rises to `peak` in `warm` steps, and falls to 0 at `steps` along a cosine; what is no matrix of
    a block has AdamW."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=peak, warmup_steps=warm)
    return keras.optimizers.Muon(rate, exclude_layers=["embed", "modulation", "output"], **options)


class Recipe:
    """Reads --output, --steps, --seed, --smoke and what else is asked for, and keeps the time.

    Args:
        doc: the recipe's docstring.
        output: the folder's default name.
        steps: default number of the transformer's steps; 10 with --smoke.
        options: by name, what `add_argument` takes.
    """

    def __init__(self, doc, output, steps, **options):
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--output", type=pathlib.Path, default=output)
        parser.add_argument("--steps", type=int, default=steps)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
        for name, option in options.items():
            parser.add_argument(f"--{name}", **option)
        self.arguments = parser.parse_args()
        self.output, self.smoke = self.arguments.output, self.arguments.smoke
        self.steps = 10 if self.smoke else self.arguments.steps
        self.output.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(self.arguments.seed)
        keras_mmai.memory.keep_freed_memory()
        self.clock, self.seconds = time.time(), {}

    def lap(self, name):
        """The phase that ends here."""
        self.seconds[name], self.clock = round(time.time() - self.clock, 1), time.time()
        print(f"== {name}: {self.seconds[name]} s", flush=True)

    def fit(self, model, tokens, peak, batch_size=32):
        """Trains a transformer by Muon for at least `steps` steps, whole epochs. The rate rises to `peak` in a
        twentieth of them, and falls to 0 along a cosine."""
        data = ArrayDataset(tokens, batch_size=batch_size, seed=self.arguments.seed)
        epochs = -(-self.steps // len(data))
        steps = epochs * len(data)
        optimizer = muon(steps, peak, steps // 20, global_clipnorm=1.0)  # a bad batch can undo an epoch
        model.compile(optimizer, jit_compile=keras.backend.backend() != "torch")
        model.fit(data, epochs=epochs, verbose=2)
        self.lap("transformer")

    def write(self, report):
        """Prints the report and writes report.json, with the arguments and the seconds of the phases."""
        report["arguments"] = {name: value for name, value in vars(self.arguments).items() if name != "output"}
        report["seconds"] = {**self.seconds, "total": round(sum(self.seconds.values()), 1)}
        text = json.dumps(report, indent=1, default=str)
        print(text)
        (self.output / "report.json").write_text(text)
