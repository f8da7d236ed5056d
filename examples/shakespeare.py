"""Shakespeare by characters: texts made of nothing, gaps filled in, and texts that go on, by masked diffusion.

    TFDS_DATA_DIR=... python examples/shakespeare.py --output shakespeare_run

The text is tiny Shakespeare, as tensorflow_datasets prepares it; its last tenth is held out. A transformer of 4 blocks
of width 128 learns windows of 64 characters. What it makes in 4, 16 and 64 steps, as it is learned and by likelier
characters (a temperature of .6), is judged by the share of its words, of four letters and more, that the training text
has, beside that of held-out windows. Writes report.json, texts.txt, a picture of that share by the number of steps, and
the generator.
"""

import re

import keras
import numpy as np
from matplotlib.figure import Figure
from recipe import Recipe, mean_with_error, muon

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.data import load_tiny_shakespeare
from keras_mmai.diffusion import MaskedAncestral
from keras_mmai.tokenizers import CharacterTokenizer

LENGTH, BATCH = 64, 12
SIZES = dict(hidden_dim=128, num_layers=4, num_heads=4)


def load():
    """A tokenizer of windows, and the ids of the text and of its last tenth, which is held out."""
    parts = load_tiny_shakespeare()
    text, held_out = parts["train"], parts["validation"] + parts["test"]
    tokenizer = CharacterTokenizer(LENGTH, "".join(sorted(set(text + held_out))))
    return tokenizer, *(np.array(tokenizer.ids_of(part), "int32") for part in (text, held_out))


def windows(ids, starts, length=LENGTH):
    return ids[starts[:, None] + np.arange(length)]


def noisy_pairs(ids, random, masks=1):
    """Windows (steps * BATCH, LENGTH) for `fit`, 2 * masks * BATCH rows a step, and a weight of each row.

    Each window is there with `masks` masks and with their complements. By its weight a row counts t^(-1/2) in the sum
    over its masked characters, and not t^-1 as in the bound: less where few are masked, which is where chance is large.
    """
    ids = np.repeat(ids.reshape(-1, BATCH, LENGTH), masks, axis=0)
    n = len(ids)
    t = random.permuted((np.arange(BATCH) + random.random((n, BATCH))) / (2 * BATCH), axis=1).astype("float32")
    noise = random.random((n, BATCH, LENGTH), "float32")  # a character is masked where this is below t
    place = np.where(random.random((n, BATCH, 1)) < 0.5, np.arange(LENGTH) / LENGTH, random.random(noise.shape))
    known = (random.random((n, BATCH, 1)) < 0.1) & (place < random.random((n, BATCH, 1)))  # for texts that go on

    def rows(first, second):
        return np.concatenate([first, second], axis=1).reshape(2 * n * BATCH, *first.shape[2:])

    t = rows(t, 1 - t)
    complement = np.minimum(1 - noise, np.float32(1 - 2.0**-24))  # below 1, as noise is
    noised = {"t": t, "noise": rows(noise, complement), "known": rows(known, known)}
    return {"text": rows(ids, ids), **{key: {"text": x} for key, x in noised.items()}}, 1.5 * np.sqrt(t)


def optimizer(steps):
    return muon(steps, 1e-2, min(100, steps // 20))


def words(text):
    """Of four letters and more, since few letters are a word by chance; without what an end of the text may cut."""
    return re.findall("(?<=[^a-z])[a-z]{4,}(?=[^a-z])", text.lower())


def judged(texts, seen):
    """The share of the words of a text that are in `seen`, in the mean of texts, and that of different ones in all."""
    found = [row for row in map(words, texts) if row]
    shares = [np.mean([word in seen for word in row]) for row in found]
    together = [word for row in found for word in row]
    return {"seen": mean_with_error(shares), "different": len(set(together)) / len(together)}


def texts_of(generator, ids, num_blocks):
    """Texts by the way they come about, each of a window (n, LENGTH) that is partly known, or as many of nothing."""
    place, known_texts = np.arange(LENGTH), generator.decode({"text": ids})["text"]
    texts = {"made of nothing": generator.generate(num_samples=len(ids))["text"]}
    for name, known in {"goes on": place < LENGTH // 2, "filled in": abs(place - 31.5) > 12}.items():
        texts[f"{name}, known"] = ["".join(np.where(known, [*text], "_")) for text in known_texts]
        texts[name] = generator.generate({"text": ids}, known={"text": known})["text"]
    texts["goes on, block by block"] = generator.extend({"text": ids}, num_blocks)["text"]
    return texts


def main():
    recipe = Recipe(__doc__, "shakespeare_run", steps=4500)
    num_texts, num_draws, num_blocks = (20, 2, 2) if recipe.smoke else (500, 16, 12)
    tokenizer, ids, held_out = load()
    random = np.random.default_rng(recipe.arguments.seed)
    train = windows(ids, random.integers(0, len(ids) - LENGTH, recipe.steps * BATCH))
    test = windows(held_out, np.linspace(0, len(held_out) - LENGTH, num_texts).astype(int))
    modalities = [Modality("text", tokenizer)]
    model = MultimodalDiffusionTransformer(modalities, MultimodalDiT(modalities, **SIZES), ema_decays=(0.995,))
    model.compile(optimizer(recipe.steps), jit_compile=keras.backend.backend() != "torch")
    pairs, weights = noisy_pairs(train, random)
    model.fit(pairs, sample_weight=weights, batch_size=2 * BATCH, shuffle=False, verbose=2)
    recipe.lap("transformer")

    seen = set(words(tokenizer.text_of(ids)))
    shares = {"held out": judged(tokenizer.decode(test), seen)}
    for temperature in (1.0, 0.6):
        generator = model.generator({"text": MaskedAncestral(temperature)}, num_steps=LENGTH)
        shares[f"temperature {temperature}"] = {
            n: judged(generator.generate(num_samples=num_texts, steps=n, seed=1)["text"], seen) for n in (4, 16, 64)
        }
    bound = generator.score({"text": test}, num_draws=num_draws)["bound"] / LENGTH
    texts = texts_of(generator, test[:: num_texts // 5], num_blocks)
    lines = [f"{name}: {text.replace(chr(10), ' / ')}\n" for name, rows in texts.items() for text in rows]
    (recipe.output / "texts.txt").write_text("".join(lines))
    recipe.lap("scores and texts")
    recipe.write({"bound, nats per character": mean_with_error(bound), "words": shares})

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(shares.pop("held out")["seen"]["mean"], color="black", linestyle="dashed", label="held-out windows")
    for name, rows in shares.items():
        mean, error = ([row["seen"][key] for row in rows.values()] for key in ("mean", "standard error"))
        axes.errorbar([*rows], mean, error, marker="o", label=name)
    axes.set(xlabel="steps", xscale="log", xticks=[*rows], xticklabels=[*rows], ylim=(0, 1))
    axes.set_ylabel("share of words that are known")
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.88))
    figure.savefig(recipe.output / "words.png", dpi=150)
    generator.save(recipe.output / "generator.keras")


if __name__ == "__main__":
    main()
