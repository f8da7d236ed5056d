"""What each choice of the model of several modalities is worth: one thing is changed at a time.

    python benchmarks/ablations.py out/generator.keras --seeds 0 1 2 --output ablations_out

On the data of examples/any_to_any.py and the tokenizers of its generator.keras, by a new network of that size: at least
as many steps of 32 examples, in whole epochs, by Muon; then the share of its test digits that judges of real signals
name as what was given, for each of the nine tasks that want one modality, the share of triples made of nothing in which
all three agree, made at once or the word first, and the Frechet distance to real ones of the images and sounds in those
made at once. It is not that example: tasks are equally frequent, gradients are not clipped, nothing guides, and letters
have the plain sampler. Changed are

* which tokens are diffused how: image latents by flow and sound codes and letters by masks (the default), all masked
  (the image's codes), or all by flow (the sound's latents, letters as one-hot vectors);
* tasks: drawn alike (the default), or half of the examples generate all three;
* noise levels: each generated modality has its own (the default), or all of them one, in every example or in three of
  four;
* roles: what is neither given nor wanted is absent (the default), or is generated with the rest and dropped (there is
  no word first);
* one embedding of noise levels for all modalities, or one for each; positions;
* streams: separate (the default), or shared, which at the same width have a third of the weights and at width 128 about
  as many.

Shares are not divided by the ceiling, what tokenizers alone leave to name, which is printed. Printed are means over
seeds with their standard errors, and of the difference to the first row of the same seed. What has been measured with
the same settings is in report.json and is not measured again: rows and seeds can be added.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
from keras import ops

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT, memory, metrics
from keras_mmai.data import ArrayDataset
from keras_mmai.layers import TimestepEmbedding
from keras_mmai.tokenizers import CharacterTokenizer, PassThrough

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from recipe import digit_judges, digit_signals, muon, named

LETTERS = CharacterTokenizer(5, "efghinorstuvwxz")
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
        self.generator, self.decode = generator, generator.decode
        self.modalities, self.tasks = generator.modalities, generator.tasks

    def generate(self, given, want, **options):
        out = self.generator.generate(given, [name for name in NAMES if name not in given], **options)
        return {name: out[name] for name in want}


LAYOUT, DRAWS = ("hidden_dim", "streams", "positions"), ("independent_times", "task_weights")  # of network, of model
HALF = {JOINT: 18.0}  # as much as all the other tasks
ROWS = {
    "default": {},
    "all discrete": {"tokens": "codes"},
    "all continuous": {"tokens": "latents"},
    "one noise level": {"independent_times": 0.0},
    "one noise level in three of four": {"independent_times": 0.25},
    "half make everything": {"task_weights": HALF},
    "no roles": {"roles": False},
    "embeddings of noise levels apart": {"times_apart": True},
    "shared streams": {"streams": "shared"},
    "shared streams, as many weights": {"streams": "shared", "hidden_dim": 128},
    "rotary positions alone": {"positions": "rotary"},
    "added positions alone": {"positions": "sincos"},
}
FIRST = next(iter(ROWS))


def one_hot(words):
    """Texts to letters (n, 5, vocabulary) in {-1, 1}."""
    return 2.0 * np.eye(LETTERS.vocabulary, dtype="float32")[LETTERS.encode(words)] - 1.0


def named_by_letters(words):
    """Texts, or letters (n, 5, vocabulary), to digits."""
    return named(LETTERS.decode(words.argmax(-1).astype("int32")) if isinstance(words, np.ndarray) else words)


def run(row, seed, args):
    """What one seed of a row measures."""
    (train, train_labels), (test, labels) = digit_signals(args.digits, args.samples)
    of_generator = {m.name: m.tokenizer for m in keras.models.load_model(args.generator).modalities}
    tokenizers = {name: of_generator[name] for name in ("image", "sound")}
    keras.utils.set_random_seed(0)
    judges = {**digit_judges(train, train_labels, 8), "word": named_by_letters}
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
    layout, draws = ({key: row[key] for key in keys if key in row} for keys in (LAYOUT, DRAWS))
    layout = {"hidden_dim": 80, **layout}
    kind = TimesApart if row.get("times_apart") else MultimodalDiT
    network = kind(modalities, **layout, num_layers=4, num_heads=4)
    model = MultimodalDiffusionTransformer(modalities, network, **draws, ema_decays=(0.995,))
    if not roles:
        train = {**train, "task": np.full(len(train["word"]), list(model.tasks).index(JOINT), "int32")}
    data = ArrayDataset(model.precompute(train, verbose=0), batch_size=32, seed=seed)
    steps = -(-args.steps // len(data)) * len(data)
    model.compile(muon(steps, 5e-3, steps // 20), jit_compile=keras.backend.backend() != "torch")
    start = time.time()
    model.fit(data, epochs=steps // len(data), verbose=0)
    seconds = time.time() - start
    generator = model.generator(num_steps=16)
    asked = {name: task for name, task in model.tasks.items() if task[0] and len(task[1]) == 1}
    asked[JOINT] = model.tasks[JOINT]
    judged = (test, labels, judges)
    reference = {name: train[name][: 2 * len(labels)] for name in tokenizers}
    found = metrics.coherence(generator if roles else Together(generator), *judged, asked, reference=reference)
    shares = {task: next(iter(share.values())) for task, share in found["conditional"].items()}
    joint = {"at once": found["joint"][JOINT]}
    if roles:
        in_order = model.generator(num_steps=16, order=["word"])
        joint["word first"] = metrics.coherence(in_order, *judged, {JOINT: asked[JOINT]})["joint"][JOINT]
    distances = {f"of {name}s": found["frechet_distance"][JOINT][name] for name in reference}
    distances |= {f"of real {name}s": found["frechet_distance"]["real"][name] for name in reference}
    return {
        "conditional": float(np.mean(list(shares.values()))),
        "joint": joint,
        "frechet_distance": distances,
        "tokenizer_ceiling": found["tokenizer_ceiling"],
        "tasks": shares,
        "parameters": network.count_params(),
        "seconds of training": seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", type=pathlib.Path, help="generator.keras of examples/any_to_any.py")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=5040, help="at least: whole epochs")
    parser.add_argument("--digits", type=int, help="that are learned; without: all")
    parser.add_argument("--samples", type=int, default=300, help="test digits")
    parser.add_argument("--output", type=pathlib.Path, default="ablations_out")
    args = parser.parse_args()
    memory.keep_freed_memory()
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "report.json"
    settings = {name: getattr(args, name) for name in ("steps", "digits", "samples")}
    settings["rows"] = ROWS
    settings |= {"backend": keras.backend.backend(), "generator": str(args.generator.resolve())}
    report = json.loads(kept.read_text()) if kept.exists() else {"settings": settings, "rows": {}}
    if report["settings"] != settings:
        raise SystemExit(f"{kept} is of other settings, {report['settings']}: choose another --output.")

    asked = ((seed, name) for seed in args.seeds for name in args.rows)
    missing = [(seed, name) for seed, name in asked if str(seed) not in report["rows"].get(name, {})]
    if len(missing) > 1:  # a process each, since compiled steps stay in memory
        for seed, name in missing:
            one = ("--rows", name, "--seeds", str(seed))
            subprocess.run([sys.executable, __file__, *sys.argv[1:], *one], check=True, stdout=sys.stderr)
        report = json.loads(kept.read_text())
    elif missing:
        seed, name = missing[0]
        report["rows"].setdefault(name, {})[str(seed)] = run(ROWS[name], seed, args)
        kept.write_text(json.dumps(report, indent=1))
    for name, row in report["rows"].items():
        print(name, told(row, report["rows"].get(FIRST, {})), sep="\n", flush=True)


def told(row, first):
    """The lines of the summary: of each measure its mean over seeds, and that of its difference to the first row's."""
    measures = {
        "conditional": lambda one: one["conditional"],
        "joint, at once": lambda one: one["joint"]["at once"],
        "joint, word first": lambda one: one["joint"].get("word first", np.nan),
        "distance, images": lambda one: one["frechet_distance"]["of images"],
        "distance, sounds": lambda one: one["frechet_distance"]["of sounds"],
    }
    lines = []
    for measure, of in measures.items():
        line = f"    {measure:18} {mean_and_error([of(one) for one in row.values()])}"
        both = [seed for seed in row if seed in first]
        if both and row is not first:
            line += f"   less the first row's {mean_and_error([of(row[seed]) - of(first[seed]) for seed in both])}"
        lines.append(line)
    last = next(iter(row.values()))
    ceiling = ", ".join(f"{name} {share:.3f}" for name, share in last["tokenizer_ceiling"].items())
    return "\n".join([*lines, f"    {len(row)} seeds, {last['parameters']:,} parameters, ceiling: {ceiling}"])


def mean_and_error(values):
    error = f"+- {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else "(one seed)"
    return f"{np.mean(values):+.3f} {error}"


if __name__ == "__main__":
    main()
