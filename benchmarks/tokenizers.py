"""Quantizers at equal bits in one VQ-VAE on real images, and the published curves of DeepMind and keras.io beside ours.

    python benchmarks/tokenizers.py cifar --data cifar10_jpeg_subset.npz --steps 1000 --output out
    TFDS_DATA_DIR=... python benchmarks/tokenizers.py mnist --steps 2000 --output out
    TFDS_DATA_DIR=... python benchmarks/tokenizers.py keras-io

Every row is DeepMind's example (filters 64 and 128, Adam 3e-4, batches of 32) with another quantizer of 9 bits for each
of the tokens: 8x8 of a CIFAR-10 image, 7x7 of an MNIST digit. Error is the squared error over the variance of the
pixels: of the last 100 training steps, and of the test images, of which the codes in use and the perplexity are too;
seconds are for 100 steps, the median. Means over seeds, with the standard deviation of the test error. Writes
runs.json and curves.png; a run that is in runs.json already is not run again, so `--rows NAME --seeds 3` adds seeds.

The row keras-io is the example "Vector-Quantized Variational Autoencoders" of keras.io at its own budget: the 60,000
digits, 128 codes of width 16, 30 epochs, batches of 128, Adam 1e-3, and fewer parameters.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_mmai
from keras_mmai.data import load_mnist
from keras_mmai.layers import (
    FiniteScalarQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)

# printed by Sonnet's examples/vqvae_example.ipynb, on the true CIFAR-10: step -> error over variance
DEEPMIND = {100: 0.483, 300: 0.190, 500: 0.147, 1000: 0.105, 2000: 0.081, 5000: 0.061, 10000: 0.056}
# printed by keras.io's example: epoch -> error over variance
KERAS_IO = {1: 0.3869, 10: 0.0612, 20: 0.0486, 30: 0.0444}
KERAS_IO_PARAMETERS = 49_937
WINDOW = 100  # steps

ROWS = {
    "VQ gradient": lambda seed: VectorQuantizer(512, 64, codebook="gradient", revival_threshold=0.0, seed=seed),
    "VQ gradient, revival": lambda seed: VectorQuantizer(512, 64, codebook="gradient", seed=seed),
    "VQ moving averages": lambda seed: VectorQuantizer(512, 64, revival_threshold=0.0, seed=seed),
    "VQ moving averages, revival": lambda seed: VectorQuantizer(512, 64, seed=seed),
    "the same, rotation trick": lambda seed: VectorQuantizer(512, 64, gradient="rotation", seed=seed),
    "the same, codes of width 8 (default)": lambda seed: VectorQuantizer(512, 64, code_dim=8, seed=seed),
    "the same, latents of width 8": lambda seed: VectorQuantizer(512, 8, seed=seed),
    "the same, cosine": lambda seed: VectorQuantizer(512, 64, distance="cosine", seed=seed),
    "SimVQ": lambda seed: SimVQ(512, 64, seed=seed),
    "FSQ 8x8x8": lambda seed: FiniteScalarQuantizer((8, 8, 8)),
    "LFQ 9 bits": lambda seed: LookupFreeQuantizer(9),
    "LFQ 9 bits, spherical, entropy .01": lambda seed: LookupFreeQuantizer(9, spherical=True, entropy_weight=0.01),
    "RVQ 32 + 16": lambda seed: ResidualQuantizer([VectorQuantizer(32, 64, seed=seed), VectorQuantizer(16, 64)]),
}


def images(dataset, path):
    """Train and test images in [-1, 1]."""
    if dataset == "mnist":
        data = load_mnist("tfds")
        return data["train"]["images"], data["test"]["images"]
    data = np.load(path)
    return tuple(data[name].astype("float32") / 127.5 - 1.0 for name in ("x_train", "x_test"))


def run(make, train, test, steps, seed):
    """One training: its curve, and what the table holds."""
    keras.utils.set_random_seed(seed)
    variance = float(train.var())
    model = keras_mmai.VQVAE(train.shape[1:], quantizer=make(seed), data_variance=variance)
    model.compile(keras.optimizers.Adam(3e-4))
    random = np.random.RandomState(seed)

    def batches():
        while True:
            yield (train[random.randint(0, len(train), 32)],)

    times = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.append(time.perf_counter()))
    history = model.fit(
        batches(), steps_per_epoch=WINDOW, epochs=steps // WINDOW, shuffle=False, callbacks=[clock], verbose=0
    ).history
    out = model.predict(test, batch_size=100, verbose=0)
    metrics = [keras_mmai.tokenizers.Perplexity, keras_mmai.tokenizers.CodesInUse]
    perplexity, in_use = (metric(model.vocabulary, model.quantizer.code_shape) for metric in metrics)
    for metric in (perplexity, in_use):
        metric.update_state(out["codes"])
    return {
        "curve": history["reconstruction"],
        "train": history["reconstruction"][-1],
        "test": float(np.mean((out["outputs"] - test) ** 2)) / variance,
        "perplexity": float(perplexity.result()),
        "codes_in_use": float(in_use.result()),
        "seconds": float(np.median(np.diff(times))),
    }


def plot(curves, path, with_deepmind):
    figure = Figure(figsize=(10, 5), dpi=144, layout="constrained")
    panel = figure.subplots()
    for i, (name, curve) in enumerate(curves.items()):
        style = dict(color=f"C{i % 10}", linestyle=["-", "--"][i // 10], linewidth=1.2)
        panel.loglog(WINDOW * np.arange(1, len(curve) + 1), curve, label=name, **style)
    if with_deepmind:
        last = WINDOW * max(map(len, curves.values()))
        printed = {step: error for step, error in DEEPMIND.items() if step <= last}
        panel.plot(printed.keys(), printed.values(), "k.", label="DeepMind, printed (true CIFAR-10)")
    panel.set_xlabel("training steps of 32 images")
    panel.set_ylabel("squared error over variance")
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)


def keras_io():
    keras.utils.set_random_seed(0)
    train, _ = images("mnist", None)
    variance = float(train.var())
    quantizer = VectorQuantizer(128, 16, seed=0)
    sizes = dict(filters=(20, 32), num_residual_layers=1, residual_filters=16)
    model = keras_mmai.VQVAE((28, 28, 1), quantizer=quantizer, data_variance=variance, **sizes)
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables) + 128 * 16
    print(f"{parameters} parameters with the codebook, of {KERAS_IO_PARAMETERS} there, {keras.backend.backend()}")
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(train, batch_size=128, epochs=30, verbose=2).history
    for epoch, printed in KERAS_IO.items():
        print(f"epoch {epoch:2}: ours {history['reconstruction'][epoch - 1]:.4f}, printed {printed:.4f}")
    print(f"codes in use {history['codes_in_use'][-1]:.0f} of 128, perplexity {history['perplexity'][-1]:.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["cifar", "mnist", "keras-io"])
    parser.add_argument("--data", help="the npz file of CIFAR-10 images: x_train and x_test, uint8")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--output", type=pathlib.Path, default="tokenizers_out")
    args = parser.parse_args()
    if args.dataset == "keras-io":
        return keras_io()
    train, test = images(args.dataset, args.data)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "runs.json"
    runs = json.loads(file.read_text()) if file.exists() else {}
    print(f"{args.dataset}, {len(train)} images, {args.steps} steps, {keras.backend.backend()}")
    curves = {}
    for name in args.rows:
        rows = []
        for seed in range(args.seeds):
            key = f"{name}, {args.dataset}, {args.steps} steps, seed {seed}, {keras.backend.backend()}"
            if key not in runs:
                runs[key] = run(ROWS[name], train, test, args.steps, seed)
                file.write_text(json.dumps(runs, indent=1))
            rows.append(runs[key])
        curves[name] = np.mean([row["curve"] for row in rows], axis=0)
        means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        deviation = np.std([row["test"] for row in rows])
        print(
            f"{name:38} train {means['train']:.4f}  test {means['test']:.4f} +- {deviation:.4f}  "
            f"perplexity {means['perplexity']:5.0f}  codes {means['codes_in_use']:4.0f}  {means['seconds']:5.1f} s",
            flush=True,
        )
        plot(curves, args.output / "curves.png", args.dataset == "cifar")


if __name__ == "__main__":
    main()
