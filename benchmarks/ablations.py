"""What each choice of the model of several modalities is worth: one thing is changed at a time.

    python benchmarks/ablations.py out/generator.keras --seeds 0 1 2 --output ablations_out

On the data and the tokenizers of examples/any_to_any.py (its generator.keras): 1,500 steps of 32 examples by Muon, then
the share of its test digits that judges of real signals name as what was given, for each of the nine tasks that want
one modality, and the share of triples made of nothing in which all three agree, made at once or the word first. Changed
are

* which tokens are diffused how: image latents by flow and sound codes and letters by masks ("mixed"), all masked (the
  image's codes), or all by flow (the sound's latents, letters as one-hot vectors);
* roles: all of the generated modalities at one noise level in three examples of four, in all or in none; or no roles,
  as in UniDiffuser: each modality always has a noise level of its own, and what is neither given nor wanted is
  generated with the rest and dropped;
* one embedding of noise levels for all modalities, or one for each; streams; positions.

Shares are not divided by the tokenizers' ceiling, which is the same for all but those of other tokens; it is printed.
What has been measured is in report.json and is not measured again: rows and seeds can be added.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT, memory, metrics
from keras_mmai.data import ArrayDataset, dial_tones, load_mnist
from keras_mmai.layers import TimestepEmbedding
from keras_mmai.tokenizers import CharacterTokenizer, PassThrough

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = CharacterTokenizer(5, "efghinorstuvwxz")
RATE = 8000
NAMES = ("image", "sound", "word")
JOINT = "image_sound_word"


@keras.saving.register_keras_serializable("ablations")
class TimesApart(MultimodalDiT):
    """Each modality has an embedding of noise levels of its own."""

    def build(self, input_shape=None):
        if not self.built:
            options = dict(time_scale=self.time_scale, dtype=self.dtype_policy)
            others = [TimestepEmbedding(self.hidden_dim, **options) for _ in self.sequence[1:]]
            for layer in others:
                layer.build((None, None))
            self.of_others = others
        super().build(input_shape)

    def _condition(self, times, rows):
        embeds = [self.time_embed, *self.of_others]
        condition = ops.stack([embeds[row](times[:, i]) for i, row in enumerate(rows)], axis=1)
        return condition + ops.cast(ops.take(self.modality_embedding, rows, axis=0), condition.dtype)


class Together:
    """A generator that always generates all that is not given, as a model without roles does, and drops the rest."""

    def __init__(self, generator):
        self.generator, self.modalities, self.decode = generator, generator.modalities, generator.decode
        self.tasks = generator.tasks

    def generate(self, given, want, **options):
        out = self.generator.generate(given, [name for name in NAMES if name not in given], **options)
        return {name: out[name] for name in want}


ROWS = {
    "default": {},
    "all discrete": {"tokens": "codes"},
    "all continuous": {"tokens": "latents"},
    "one noise level": {"independent_times": 0.0},
    "independent noise levels": {"independent_times": 1.0},
    "no roles": {"roles": False},
    "embeddings of noise levels apart": {"times_apart": True},
    "separate streams": {"streams": "separate"},
    "rotary positions alone": {"positions": "rotary"},
    "added positions alone": {"positions": "sincos"},
}


def one_hot(words):
    """Texts to letters (n, 5, vocabulary) in {-1, 1}."""
    return 2.0 * np.eye(LETTERS.vocabulary, dtype="float32")[LETTERS.encode(words)] - 1.0


def which(words):
    """Texts, or the logits of letters, to digits; -1 is no word."""
    if isinstance(words, np.ndarray):
        words = LETTERS.decode(words.argmax(-1).astype("int32"))
    return np.array([WORDS.index(word) if word in WORDS else -1 for word in words])


def run(row, seed, tokenizers, train, test, labels, judges, args):
    roles = row.get("roles", True)
    kinds = {"image": "latents", "sound": "codes", "word": "codes"}
    if "tokens" in row:
        kinds = dict.fromkeys(NAMES, row["tokens"])
    word = LETTERS
    if kinds["word"] == "latents":
        word = PassThrough((5, LETTERS.vocabulary))
        train, test = ({**x, "word": one_hot(x["word"])} for x in (train, test))
    modalities = [Modality(name, tokenizers.get(name, word), kinds[name]) for name in NAMES]
    keras.utils.set_random_seed(seed)
    layout = {key: row[key] for key in ("streams", "positions") if key in row}
    kind = TimesApart if row.get("times_apart") else MultimodalDiT
    network = kind(modalities, hidden_dim=128, num_layers=4, num_heads=4, **layout)
    options = dict(independent_times=row.get("independent_times", 0.25))
    if not roles:
        options = dict(independent_times=1.0, partly_known=0.0)
    model = MultimodalDiffusionTransformer(modalities, network, ema_decays=(0.995,), **options)
    if not roles:
        train = {**train, "task": np.full(len(train["word"]), list(model.tasks).index(JOINT), "int32")}
    data = ArrayDataset(model.precompute(train, verbose=0), batch_size=32)
    steps = -(-args.steps // len(data)) * len(data)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps * 19 // 20, warmup_target=5e-3, warmup_steps=steps // 20)
    muon = keras.optimizers.Muon(rate, exclude_layers=["embed", "modulation", "output"])
    model.compile(muon, jit_compile=keras.backend.backend() != "torch")
    start = time.time()
    model.fit(data, epochs=steps // len(data), verbose=0)
    seconds = time.time() - start
    generator = model.generator(num_steps=16)
    asked = {name: task for name, task in model.tasks.items() if task[0] and len(task[1]) == 1}
    asked[JOINT] = model.tasks[JOINT]
    judged = (test, labels, judges)
    found = metrics.coherence(generator if roles else Together(generator), *judged, asked)
    shares = {task: next(iter(share.values())) for task, share in found["conditional"].items()}
    joint = {"at once": found["joint"][JOINT]}
    if roles:
        in_order = model.generator(num_steps=16, order=["word"])
        joint["word first"] = metrics.coherence(in_order, *judged, {JOINT: asked[JOINT]})["joint"][JOINT]
    return {
        "conditional": float(np.mean(list(shares.values()))),
        "joint": joint,
        "ceiling": found["ceiling"],
        "tasks": shares,
        "parameters": network.count_params(),
        "seconds of training": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=pathlib.Path, help="generator.keras of examples/any_to_any.py")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500, help="at least: whole epochs")
    parser.add_argument("--digits", type=int, help="that are learned; without: all")
    parser.add_argument("--samples", type=int, default=300, help="test digits")
    parser.add_argument("--output", type=pathlib.Path, default="ablations_out")
    args = parser.parse_args()
    memory.keep_freed_memory()
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "report.json"
    report = json.loads(kept.read_text()) if kept.exists() else {}

    digits = load_mnist()
    train, test = (
        {
            "image": digits[part]["images"][:count],
            "sound": dial_tones(digits[part]["labels"], 2048, RATE, seed=seed)[:count],
            "word": [WORDS[label] for label in digits[part]["labels"][:count]],
        }
        for part, seed, count in (("train", 0, args.digits), ("test", 1, args.samples))
    )
    labels = digits["test"]["labels"][: args.samples]
    of_generator = {m.name: m.tokenizer for m in keras.models.load_model(args.generator).modalities}
    tokenizers = {name: of_generator[name] for name in ("image", "sound")}
    keras.utils.set_random_seed(0)
    judges = {
        name: metrics.train_judge(train[name], digits["train"]["labels"][: args.digits], 8, sample_rate=rate)
        for name, rate in (("image", None), ("sound", RATE))
    }
    judges["word"] = which
    for seed in args.seeds:
        for name in args.rows:
            rows = report.setdefault(name, {})
            if str(seed) not in rows:
                rows[str(seed)] = run(ROWS[name], seed, tokenizers, train, test, labels, judges, args)
                kept.write_text(json.dumps(report, indent=1))
                print(seed, name, json.dumps(rows[str(seed)]), flush=True)
    for name, rows in report.items():
        told, values = [], {"conditional": [row["conditional"] for row in rows.values()]}
        for key in ("at once", "word first"):
            values[f"joint, {key}"] = [row["joint"].get(key, np.nan) for row in rows.values()]
        for key, shares in values.items():
            told.append(f"{key} {np.mean(shares):.3f} +- {np.std(shares):.3f}")
        print(f"{name:34} {'   '.join(told)}   ({len(rows)} seeds)")


if __name__ == "__main__":
    main()
