"""Spoken digits on demand: a diffusion transformer on the tokens of an audio codec, given which digit to say.

    python examples/audio_codec.py --output audio_run
    python examples/spoken_digits.py --codec audio_run/codec.keras --output spoken_run

Needs the prepared folder that TFDS_DATA_DIR names (see `load_spoken_digits`). Classifiers of real recordings tell which
digit is heard, and whose voice. Writes report.json, a WAV file and a spectrogram of each digit, by the first guidance,
and the generator, after about 20 minutes on two CPU cores.
"""

import pathlib

import keras
import numpy as np
from recipe import Recipe

import keras_mmai
from keras_mmai import Modality, metrics, visualization
from keras_mmai.data import load_spoken_digits, vary_waveforms, write_wav
from keras_mmai.tokenizers import LabelTokenizer

recipe = Recipe(
    __doc__,
    "spoken_run",
    steps=5000,
    codec=dict(type=pathlib.Path, required=True, help="codec.keras of audio_codec.py"),
    tokens=dict(choices=("latents", "codes"), default="latents"),
    guidance=dict(type=float, nargs="+", default=[2.0, 1.0, 1.5, 3.0]),
)
args = recipe.arguments
codec = keras.models.load_model(args.codec, compile=False)
digits = load_spoken_digits(num_samples=codec.input_shape[0])
train, test, rate = digits["train"], digits["test"], digits["sample_rate"]
copies, num_samples, epochs, layers = 3, 500, 8, 6  # copies of each recording: 2,700 would be learned by heart
if recipe.smoke:
    train, test = ({k: v[:n] for k, v in part.items()} for part, n in ((train, 600), (test, 40)))
    copies, num_samples, epochs, layers, args.guidance = 0, 40, 6, 2, args.guidance[:2]
varied = vary_waveforms(train["waveforms"], copies)
label, speaker = (np.tile(train[name], 1 + copies) for name in ("labels", "speakers"))

modalities = [Modality("speech", codec, tokens=args.tokens), Modality("digit", LabelTokenizer(10), adaln=True)]
network = keras_mmai.MultimodalDiT(modalities, hidden_dim=192, num_layers=layers, num_heads=6)
tasks = {"digit_to_speech": (("digit",), ("speech",))}
model = keras_mmai.MultimodalDiffusionTransformer(modalities, network, tasks, ema_decays=(0.998,))
told = np.random.RandomState(0).uniform(size=len(label)) > 0.1  # guidance needs examples whose digit is not told
signals = {"speech": varied, "digit": label, "present": {"digit": told}}
tokens = model.precompute(signals, verbose=0)
recipe.lap("tokens")
recipe.fit(model, tokens, peak=3e-3, batch_size=64)

judges = {
    name: metrics.train_judge(varied, y, epochs, sample_rate=rate) for name, y in (("digit", label), ("voice", speaker))
}
features = judges["digit"].features
reference = features(train["waveforms"])  # which the judge has learned


def judged(waveforms, labels):
    heard, voices = judges["digit"](waveforms), judges["voice"](waveforms)
    within = np.mean([metrics.class_entropy(voices[labels == digit], 6) for digit in range(10)])
    return {
        "digits understood": float(np.mean(heard == labels)),
        "entropy of voices": metrics.class_entropy(voices, 6),
        "entropy of voices within a digit": float(within),
        "Frechet distance": metrics.frechet_distance(features(waveforms[: len(test["labels"])]), reference),
    }


decoded = codec.predict(test["waveforms"], batch_size=50, verbose=0)["outputs"].clip(-1, 1)
report = {"real": judged(test["waveforms"], test["labels"]), "reconstructions": judged(decoded, test["labels"])}
report["real"]["voices recognised"] = float(np.mean(judges["voice"](test["waveforms"]) == test["speakers"]))
recipe.lap("judges")
generator, asked, made = model.generator(num_steps=4 if recipe.smoke else 48), np.arange(num_samples) % 10, {}
for scale in args.guidance:
    name = f"guidance {scale}"
    made[name] = generator.generate({"digit": asked}, ["speech"], guidance=scale)["speech"].clip(-1, 1)
    report[name] = judged(made[name], asked)
    ceiling = max(report["reconstructions"]["digits understood"], 0.1)
    report[name]["digits understood over ceiling"] = report[name]["digits understood"] / ceiling
# of test recordings the first fifth, of which a causal codec's tokens tell no more: they go on, in the same voice
samples, known = codec.input_shape[0], np.arange(modalities[0].space.grid[0]) < modalities[0].space.grid[0] // 5
cut = {"speech": np.where(np.arange(samples)[:, None] < samples // 5, test["waveforms"], 0), "digit": test["labels"]}
on = generator.generate(cut, ["speech"], {"speech": known}, guidance=args.guidance[0])["speech"].clip(-1, 1)
report["continued"] = judged(on, test["labels"])
report["continued"]["voices kept"] = float(np.mean(judges["voice"](on) == test["speakers"]))
recipe.lap("sampling and judging")
recipe.write(report)
np.savez_compressed(recipe.output / "samples.npz", labels=asked, **made)

write_wav(recipe.output / "continued.wav", on[0], rate)
first = made[f"guidance {args.guidance[0]}"][:10]
visualization.spectrograms(first, rate, list(range(10)), num_columns=5, path=recipe.output / "spectrograms.png")
for digit in range(10):
    write_wav(recipe.output / f"{digit}.wav", first[digit], rate)
generator.save(recipe.output / "generator.keras")
