"""Quantizers of 9 bits side by side in one VQ-VAE on real digits: their errors, how they use their codes, pictures.

    python examples/compare_quantizers.py --output quantizers_run

Every row is the same network, trained on the same 4,500 digits in the same order; what quantizes is the one difference.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

from keras_mmai import VQVAE
from keras_mmai.data import load_mnist
from keras_mmai.layers import (
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    SimVQ,
    VectorQuantizer,
)
from keras_mmai.visualization import image_grid

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=pathlib.Path, default="quantizers_run")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--smoke", action="store_true", help="a few steps on a few digits")
args = parser.parse_args()
digits = load_mnist()
train, test = digits["train"]["images"], digits["test"]["images"]
if args.smoke:
    train, test, args.epochs = train[:128], test[:32], 1

quantizers = {
    "moving averages": VectorQuantizer(512, 9, seed=0),
    "moving averages, no revival": VectorQuantizer(512, 9, revival_threshold=0.0, seed=0),
    "by gradient": VectorQuantizer(512, 9, codebook="gradient", seed=0),
    "by gradient, rotation trick": VectorQuantizer(512, 9, codebook="gradient", gradient="rotation", seed=0),
    "cosine": VectorQuantizer(512, 9, distance="cosine", seed=0),
    "SimVQ": SimVQ(512, 9, seed=0),
    "finite scalar 8x8x8": FiniteScalarQuantizer((8, 8, 8), 9),
    "lookup-free, 9 bits": LookupFreeQuantizer(9),
    "residual 32 + 16": ResidualQuantizer([VectorQuantizer(32, 9, seed=0), VectorQuantizer(16, 9, seed=1)]),
    "groups 32 x 16": GroupedQuantizer([VectorQuantizer(32, 5, seed=0), VectorQuantizer(16, 4, seed=1)]),
}
rows, pictures = {}, [test[:12]]
for name, quantizer in quantizers.items():
    keras.utils.set_random_seed(0)
    tokenizer = VQVAE((28, 28, 1), filters=(32, 64), quantizer=quantizer, data_variance=float(train.var()))
    tokenizer.compile(keras.optimizers.Adam(2e-3))
    tokenizer.fit(train, batch_size=32, epochs=args.epochs, verbose=0)
    row = tokenizer.evaluate(test, batch_size=100, verbose=0, return_dict=True)
    rows[name] = {key: row[key] for key in ("reconstruction", "perplexity", "codes_in_use")}
    rows[name]["bits"] = tokenizer.quantizer.bits
    print(f"{name:28}" + "".join(f"  {key} {value:8.4g}" for key, value in rows[name].items()), flush=True)
    pictures.append(tokenizer.predict(test[:12], verbose=0)["outputs"].clip(-1, 1))
args.output.mkdir(parents=True, exist_ok=True)
(args.output / "report.json").write_text(json.dumps(rows, indent=1))
image_grid(np.concatenate(pictures), num_columns=12, path=args.output / "reconstructions.png")
