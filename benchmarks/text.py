"""Characters of tiny Shakespeare: masked diffusion against an autoregressive twin of the same transformer.

    TFDS_DATA_DIR=... python benchmarks/text.py --output text_out

Both are 4 blocks of width 128 on windows of 64 characters, trained for as many iterations of 12 windows, the size that
nanoGPT's README gives for a CPU: 2,000 iterations, 1.88 nats per character there by AdamW. Here both are trained by
Muon (by AdamW at nanoGPT's rate, with one mask and the bound's weights, they had 1.69 and 2.65). The twin has a causal
mask and tells the next character; masked diffusion has the bound of `MultimodalGenerator.score`, and sees each window
of an iteration with masks and their complements, by each of which every character is told once, as by the twin: with
three, a step has six times its rows. The bound is of all 64 characters of a window, and nothing comes before the first;
the twin is told that one, and tells the 64 after it. Both are measured on windows of the last tenth of the text, each
with its standard error. Prints them, their ratio, texts such as examples/shakespeare.py makes, and how good texts are
after fewer steps, by the twin. Writes report.json.
"""

import argparse
import json
import pathlib
import sys
import time

import keras
import numpy as np
from keras import ops

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.layers import DiTBlock, DiTOutput, TokenEmbedding, rotary_tables, sincos_positions

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from recipe import mean_with_error
from shakespeare import BATCH, LENGTH, SIZES, load, noisy_pairs, optimizer, texts_of, windows


class Twin(keras.Model):
    """The same blocks and positions under a causal mask, with one condition that is learned instead of a time."""

    def __init__(self, vocabulary, hidden_dim, num_layers, num_heads):
        super().__init__()
        self.embed = TokenEmbedding(vocabulary, hidden_dim)
        self.condition = self.add_weight(shape=(1, hidden_dim), initializer="random_normal", name="condition_embed")
        self.blocks = [DiTBlock(num_heads, qk_norm=True) for _ in range(num_layers)]
        self.head = DiTOutput(vocabulary)
        self.added = sincos_positions((LENGTH,), hidden_dim).astype("float32")
        self.rotary = rotary_tables((LENGTH,), hidden_dim // num_heads)

    def call(self, ids, training=False):
        x = self.embed(ids)
        x = x + ops.cast(self.added, x.dtype)
        causal = ops.convert_to_tensor(np.tri(LENGTH)[None] > 0)
        condition = ops.broadcast_to(self.condition, (ops.shape(ids)[0], self.condition.shape[1]))
        for block in self.blocks:
            x = block(x, condition, mask=causal, rotary=self.rotary)
        return self.head(x, condition)


def negative_log_likelihood(twin, ids):
    """Nats per character that the twin gives windows (n, up to LENGTH + 1) after their first character: (n,)."""
    count = ids.shape[1] - 1
    padded = np.pad(ids[:, :-1], ((0, 0), (0, LENGTH - count)))  # nothing looks at what comes after it
    logits = twin.predict(padded, batch_size=100, verbose=0)[:, :count]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_p, told = np.take_along_axis(log_p, ids[:, 1:, None].astype(int), -1)[..., 0], ids[:, 1:] > 0
    return -(log_p * told).sum(1) / told.sum(1)  # a text that is made may be shorter


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--masks", type=int, default=3, help="of each window, beside their complements")
    parser.add_argument("--windows", type=int, default=2500, help="windows that are measured")
    parser.add_argument("--draws", type=int, default=16, help="noise levels of each for the bound")
    parser.add_argument("--output", type=pathlib.Path, default="text_out")
    parser.add_argument("--smoke", action="store_true", help="a few of everything")
    args = parser.parse_args()
    if args.smoke:
        args.iterations, args.windows, args.draws = 10, 20, 2
    keras.utils.set_random_seed(0)
    tokenizer, ids, held_out = load()
    train = np.random.RandomState(0).randint(0, len(ids) - LENGTH - 1, args.iterations * BATCH)
    test = np.linspace(0, len(held_out) - LENGTH - 1, args.windows).astype(int)
    report = {"iterations": args.iterations, "masks": args.masks, "backend": keras.backend.backend()}

    twin = Twin(tokenizer.vocabulary, **SIZES)
    jit = keras.backend.backend() != "torch"
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    twin.compile(optimizer(args.iterations), cross_entropy, jit_compile=jit)
    rows = windows(ids, train, LENGTH + 1)
    start = time.time()
    twin.fit(rows[:, :-1], rows[:, 1:], batch_size=BATCH, shuffle=False, verbose=2)
    report["twin"] = {"seconds": time.time() - start, "parameters": twin.count_params()}
    likelihood = mean_with_error(negative_log_likelihood(twin, windows(held_out, test, LENGTH + 1)))
    report["twin"]["nats per character"] = likelihood

    modalities = [Modality("text", tokenizer)]
    model = MultimodalDiffusionTransformer(modalities, MultimodalDiT(modalities, **SIZES), ema_decays=(0.99,), seed=0)
    model.compile(optimizer(args.iterations), jit_compile=jit)
    start = time.time()
    pairs, weights = noisy_pairs(windows(ids, train), np.random.default_rng(0), args.masks)
    rows = 2 * args.masks * BATCH
    model.fit(pairs, sample_weight=weights, batch_size=rows, shuffle=False, verbose=2)
    report["masked"] = {"seconds": time.time() - start, "parameters": model.network.count_params()}
    generator = model.generator(num_steps=LENGTH)
    bound = generator.score({"text": windows(held_out, test)}, num_draws=args.draws)["bound"] / LENGTH
    report["masked"]["bound, nats per character"] = mean_with_error(bound)
    report["ratio"] = report["masked"]["bound, nats per character"]["mean"] / likelihood["mean"]

    report["texts"] = texts_of(generator, windows(held_out, test[:1]), num_blocks=6)
    by_twin = {}
    for steps in (4, 16, 64):
        texts = generator.generate(num_samples=min(200, args.windows), steps=steps)["text"]
        by_twin[steps] = mean_with_error(negative_log_likelihood(twin, tokenizer.encode(texts)))
    report["nats per character of samples, by the twin, after steps"] = by_twin
    print(json.dumps(report, indent=1))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
