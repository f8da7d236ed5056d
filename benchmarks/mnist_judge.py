"""How good are generated digits? A classifier of MNIST's 60,000 digits judges them, apart from the one of the example.

    python benchmarks/mnist_judge.py --data-dir TFDS_DATA_DIR out/samples.npz

It is trained once, in about five minutes on two CPU cores, and kept in `--weights`. For every file of samples ("images"
(n, 28, 28, 1) in [0, 1], "labels" (n,)) it prints the share that it names as their label, and, in its 128 features, the
Frechet distance (FD) to the 10,000 test digits and the spread within classes over theirs. For scale it prints the same
of as many real training digits, and with `--tokenizer` of their reconstructions. Digits of the embedded 5,000 are among
its 60,000.
"""

import argparse
import math
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_mmai import metrics
from keras_mmai.data import load_mnist

EPOCHS, BATCH = 3, 128


def classifier():
    """Two convolutions at each of two sizes, then 128 features: (b, 28, 28, 1) in [-1, 1] -> logits, features."""
    x = inputs = keras.Input((28, 28, 1))
    for filters, dropout in ((32, 0.1), (64, 0.25)):
        for _ in range(2):
            x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dropout(dropout)(keras.layers.MaxPooling2D()(x))
    features = keras.layers.Dense(128, activation="relu", name="features")(keras.layers.Flatten()(x))
    logits = keras.layers.Dense(10)(keras.layers.Dropout(0.3)(features))
    return keras.Model(inputs, logits), keras.Model(inputs, [logits, features])


def train(model, digits):
    rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * math.ceil(len(digits["images"]) / BATCH))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss, metrics=["accuracy"])
    model.fit(digits["images"], digits["labels"], batch_size=BATCH, epochs=EPOCHS, verbose=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="+", type=pathlib.Path)
    parser.add_argument("--data-dir", help="folder of the prepared TFDS set; default: TFDS_DATA_DIR")
    parser.add_argument("--weights", type=pathlib.Path, default=pathlib.Path("mnist_judge.weights.h5"))
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a saved tokenizer, to judge its reconstructions too")
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    mnist = load_mnist("tfds", data_dir=args.data_dir)
    model, both = classifier()
    if not args.weights.exists():
        train(model, mnist["train"])
        model.save_weights(args.weights)
    model.load_weights(args.weights)

    def look(images):
        logits, features = both.predict(images, batch_size=500, verbose=0)
        return np.argmax(logits, axis=1), features

    named, real = look(mnist["test"]["images"])
    print(f"The judge names {np.mean(named == mnist['test']['labels']):.4f} of the test digits.")

    def report(name, images, labels):
        named, features = look(images)
        distance = metrics.frechet_distance(features, real)
        spread = metrics.within_class_spread(features, labels, real, mnist["test"]["labels"])
        print(f"{name}: accuracy {np.mean(named == labels):.3f}, FD {distance:.1f}, spread {spread:.2f}", flush=True)

    n = 1000
    images, labels = mnist["train"]["images"][:n], mnist["train"]["labels"][:n]
    report(f"{n} real digits", images, labels)
    if args.tokenizer:
        tokenizer = keras.saving.load_model(args.tokenizer, compile=False)
        outputs = tokenizer.predict(images, batch_size=100, verbose=0)["outputs"]
        report(f"{n} reconstructions", np.clip(outputs, -1, 1), labels)
    for path in args.samples:
        with np.load(path) as samples:
            report(str(path), 2 * samples["images"] - 1, samples["labels"])


if __name__ == "__main__":
    main()
