"""Characters of tiny Shakespeare: masked diffusion against an autoregressive twin of the same transformer.

    TFDS_DATA_DIR=... python benchmarks/text.py --output text_out

Both are 4 blocks of width 128 on windows of 64 characters, trained for as many iterations of 12 windows, the size that
nanoGPT's README gives for a CPU: 2,000 iterations, 1.88 nats per character there by AdamW. Here both are trained by
Muon (by AdamW at nanoGPT's rate they had 1.69 and 2.65). The twin has a causal mask and tells the next character;
masked diffusion has the bound of `MultimodalGenerator.score`, and sees each window of an iteration twice, with a mask
and its complement, so that every character is told once, as by the twin. Both are measured on windows of the last tenth
of the text, each with its standard error. Prints them, their ratio, a text that goes on, one that is filled in, one
that goes on block by block, and how good texts are after fewer steps, by the twin.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.data import load_tiny_shakespeare
from keras_mmai.layers import DiTBlock, DiTOutput, rotary_tables
from keras_mmai.tokenizers import CharacterTokenizer

LENGTH, BATCH = 64, 12
SIZES = dict(hidden_dim=128, num_layers=4, num_heads=4)


class Twin(keras.Model):
    """The same blocks under a causal mask, with one condition that is learned instead of a time."""

    def __init__(self, vocabulary, hidden_dim, num_layers, num_heads):
        super().__init__()
        self.embed = keras.layers.Embedding(
            vocabulary, hidden_dim, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.condition = self.add_weight(shape=(1, hidden_dim), initializer="random_normal", name="condition_embed")
        self.blocks = [DiTBlock(num_heads, qk_norm=True) for _ in range(num_layers)]
        self.head = DiTOutput(vocabulary)
        self.rotary = rotary_tables((LENGTH,), hidden_dim // num_heads)

    def call(self, ids, training=False):
        x = self.embed(ids)
        causal = ops.convert_to_tensor(np.tri(LENGTH)[None] > 0)
        condition = ops.broadcast_to(self.condition, (ops.shape(ids)[0], self.condition.shape[1]))
        for block in self.blocks:
            x = block(x, condition, mask=causal, rotary=self.rotary)
        return self.head(x, condition)


def windows(ids, starts, length):
    return ids[starts[:, None] + np.arange(length)]


def noisy_pairs(ids, random):
    """Windows (iterations * BATCH, LENGTH) as batches of 2 BATCH rows: each with a mask, and with its complement."""
    n = len(ids) // BATCH
    t = random.permuted((np.arange(BATCH) + random.random((n, BATCH))) / (2 * BATCH), axis=1).astype("float32")
    noise = random.random((n, BATCH, LENGTH), "float32")  # a character is masked where this is below t
    place = np.where(random.random((n, BATCH, 1)) < 0.5, np.arange(LENGTH) / LENGTH, random.random(noise.shape))
    known = (random.random((n, BATCH, 1)) < 0.1) & (place < random.random((n, BATCH, 1)))  # for texts that go on

    def rows(first, second):
        return np.concatenate([first, second], axis=1).reshape(2 * n * BATCH, *first.shape[2:])

    ids = ids.reshape(n, BATCH, LENGTH)
    noised = {"t": rows(t, 1 - t), "noise": rows(noise, 1 - noise), "known": rows(known, known)}
    return {"text": rows(ids, ids), **{key: {"text": x} for key, x in noised.items()}}


def optimizer(iterations):
    rate = keras.optimizers.schedules.CosineDecay(0.0, iterations - 100, warmup_target=1e-2, warmup_steps=100)
    return keras.optimizers.Muon(rate, exclude_layers=["embed", "modulation", "output"])


def mean_and_error(values):
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


def negative_log_likelihood(twin, ids):
    """Nats per character that the twin gives windows (n, up to LENGTH + 1) after their first character: (n,)."""
    count = ids.shape[1] - 1
    padded = np.pad(ids[:, :-1], ((0, 0), (0, LENGTH - count)))  # nothing looks at what comes after it
    logits = twin.predict(padded, batch_size=100, verbose=0)[:, :count]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, ids[:, 1:, None].astype(int), -1)[..., 0].mean(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--windows", type=int, default=2500, help="windows that are measured")
    parser.add_argument("--draws", type=int, default=16, help="noise levels of each for the bound")
    parser.add_argument("--output", type=pathlib.Path, default="text_out")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    parts = load_tiny_shakespeare()
    text, held_out = parts["train"], parts["validation"] + parts["test"]
    tokenizer = CharacterTokenizer(LENGTH, "".join(sorted(set(text + held_out))))
    ids, held_out = (np.array(tokenizer.ids_of(part), "int32") for part in (text, held_out))
    random = np.random.RandomState(0)
    train = random.randint(0, len(ids) - LENGTH - 1, args.iterations * BATCH)
    test = np.linspace(0, len(held_out) - LENGTH - 1, args.windows).astype(int)
    report = {"iterations": args.iterations, "backend": keras.backend.backend()}

    twin = Twin(tokenizer.vocabulary, **SIZES)
    jit = keras.backend.backend() != "torch"
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    twin.compile(optimizer(args.iterations), cross_entropy, jit_compile=jit)
    rows = windows(ids, train, LENGTH + 1)
    start = time.time()
    twin.fit(rows[:, :-1], rows[:, 1:], batch_size=BATCH, shuffle=False, verbose=2)
    report["twin"] = {"seconds": time.time() - start, "parameters": twin.count_params()}
    nats = negative_log_likelihood(twin, windows(held_out, test, LENGTH + 1))
    report["twin"]["nats per character"] = mean_and_error(nats)

    modalities = [Modality("text", tokenizer)]
    model = MultimodalDiffusionTransformer(modalities, MultimodalDiT(modalities, **SIZES), ema_decays=(0.99,), seed=0)
    model.compile(optimizer(args.iterations), jit_compile=jit)
    start = time.time()
    pairs = noisy_pairs(windows(ids, train, LENGTH), np.random.default_rng(0))
    model.fit(pairs, batch_size=2 * BATCH, shuffle=False, verbose=2)
    report["masked"] = {"seconds": time.time() - start, "parameters": model.network.count_params()}
    generator = model.generator(num_steps=LENGTH)
    bound = generator.score({"text": windows(held_out, test, LENGTH)}, num_draws=args.draws)["bound"] / LENGTH
    report["masked"]["bound, nats per character"] = mean_and_error(bound)
    report["ratio"] = report["masked"]["bound, nats per character"][0] / report["twin"]["nats per character"][0]

    sample = windows(held_out, test[:1], LENGTH)
    for name, known in {"goes on": np.arange(LENGTH) < 32, "filled in": np.abs(np.arange(LENGTH) - 31.5) > 12}.items():
        out = generator.generate({"text": sample}, ["text"], {"text": known})["text"][0]
        report[name] = {
            "known": "".join(c if k else "_" for c, k in zip(tokenizer.decode(sample)[0], known)),
            "is": out,
        }
    half, longer = LENGTH // 2, sample[0, : LENGTH // 2]
    for block in range(6):  # each time half of the window is known, and the other half is the next block
        window = np.pad(longer[-half:], (0, half))[None].astype("int32")
        new = generator.generate({"text": window}, ["text"], {"text": np.arange(LENGTH) < half}, seed=block)["text"]
        longer = np.concatenate([longer, tokenizer.encode(new)[0, half:]])
    report["goes on, block by block"] = "".join(
        tokenizer.decode(np.pad(longer, (0, -len(longer) % LENGTH)).reshape(-1, LENGTH).astype("int32"))
    )
    report["nats per character of samples, by the twin, after steps"] = {}
    for steps in (4, 16, 64):
        texts = generator.generate(num_samples=200, steps=steps)["text"]
        codes = np.array([tokenizer.encode([t])[0] for t in texts])
        report["nats per character of samples, by the twin, after steps"][steps] = mean_and_error(
            negative_log_likelihood(twin, codes)
        )
    print(json.dumps(report, indent=1))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
