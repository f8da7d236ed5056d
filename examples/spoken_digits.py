"""Spoken digits on demand: a diffusion transformer on the tokens of an audio codec, given which digit to say.

    python examples/audio_codec.py --output audio_run
    python examples/spoken_digits.py --codec audio_run/codec.keras --output spoken_run

Needs the prepared folder that TFDS_DATA_DIR names (see `load_spoken_digits`). Classifiers of real recordings tell which
digit is heard, and whose voice. Writes report.json, a WAV file and a spectrogram of each digit, by the first guidance,
and the generator, after about half an hour on two CPU cores.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_mmai
from keras_mmai import Modality, metrics, visualization
from keras_mmai.data import ArrayDataset, load_spoken_digits, vary_waveforms, write_wav
from keras_mmai.tokenizers import LabelTokenizer

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--codec", type=pathlib.Path, required=True, help="codec.keras of audio_codec.py")
parser.add_argument("--output", type=pathlib.Path, default="spoken_run")
parser.add_argument("--tokens", choices=("latents", "codes"), default="latents")
parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 1.0, 1.5, 3.0])
parser.add_argument("--steps", type=int, default=5000)
parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)
keras_mmai.memory.keep_freed_memory()
clock, seconds = time.time(), {}


def lap(name):
    global clock
    seconds[name], clock = round(time.time() - clock, 1), time.time()
    print(f"== {name}: {seconds[name]} s", flush=True)


codec = keras.models.load_model(args.codec, compile=False)
digits = load_spoken_digits(num_samples=codec.input_shape[0])
train, test, rate = digits["train"], digits["test"], digits["sample_rate"]
copies, num_samples, epochs, layers = 3, 500, 8, 6  # copies of each recording: 2,700 would be learned by heart
if args.smoke:
    train, test = ({k: v[:n] for k, v in part.items()} for part, n in ((train, 600), (test, 40)))
    copies, num_samples, epochs, layers, args.steps, args.guidance = 0, 40, 6, 2, 10, args.guidance[:2]
varied = vary_waveforms(train["waveforms"], copies)
label, speaker = (np.tile(train[name], 1 + copies) for name in ("labels", "speakers"))

modalities = [Modality("speech", codec, tokens=args.tokens), Modality("digit", LabelTokenizer(10), adaln=True)]
network = keras_mmai.MultimodalDiT(modalities, hidden_dim=192, num_layers=layers, num_heads=6)
tasks = {"digit_to_speech": (("digit",), ("speech",))}
model = keras_mmai.MultimodalDiffusionTransformer(modalities, network, tasks, ema_decays=(0.998,), seed=0)
told = np.random.RandomState(0).uniform(size=len(label)) > 0.1  # guidance needs examples whose digit is not told
signals = {"speech": varied, "digit": label, "present": {"digit": told}}
data = ArrayDataset(model.precompute(signals, verbose=0), batch_size=64)
lap("tokens")
warm = args.steps // 20
schedule = keras.optimizers.schedules.CosineDecay(0.0, args.steps - warm, warmup_target=3e-3, warmup_steps=warm)
muon = keras.optimizers.Muon(schedule, exclude_layers=["embed", "modulation", "output"])
model.compile(muon, jit_compile=keras.backend.backend() != "torch")
model.fit(data, epochs=-(-args.steps // len(data)), verbose=2)
lap("transformer")

mels = keras.layers.MelSpectrogram(256, 128, sampling_rate=rate, num_mel_bins=40, mag_exp=1.0, power_to_db=False)


def spectra(waveforms):
    """Log mel magnitudes as images (n, bands, frames, 1), in which digits and voices are told apart best."""
    parts = [keras.ops.convert_to_numpy(mels(waveforms[i : i + 100, :, 0])) for i in range(0, len(waveforms), 100)]
    return np.log10(np.maximum(np.concatenate(parts), 1e-3))[..., None]


judges = {name: metrics.train_judge(spectra(varied), y, epochs) for name, y in (("digit", label), ("voice", speaker))}
reference = judges["digit"].features(spectra(train["waveforms"]))


def entropy(voices):
    """Of the speakers in 0..5, over that of six equally frequent ones."""
    counts = np.bincount(voices)
    p = counts[counts > 0] / len(voices)
    return float(np.sum(p * np.log(1 / p)) / np.log(6))


def judged(waveforms, labels):
    images = spectra(waveforms)
    heard, voices = judges["digit"](images), judges["voice"](images)
    within = np.mean([entropy(voices[labels == digit]) for digit in range(10)])
    return {
        "digits understood": float(np.mean(heard == labels)),
        "entropy of voices": entropy(voices),
        "entropy of voices within a digit": float(within),
        "Frechet distance": metrics.frechet_distance(judges["digit"].features(images), reference),
    }


decoded = codec.predict(test["waveforms"], batch_size=50, verbose=0)["outputs"].clip(-1, 1)
report = {"real": judged(test["waveforms"], test["labels"]), "reconstructions": judged(decoded, test["labels"])}
report["real"]["voices recognised"] = float(np.mean(judges["voice"](spectra(test["waveforms"])) == test["speakers"]))
lap("judges")
generator, asked, made = model.generator(num_steps=4 if args.smoke else 48), np.arange(num_samples) % 10, {}
for scale in args.guidance:
    name = f"guidance {scale}"
    made[name] = generator.generate({"digit": asked}, ["speech"], guidance=scale)["speech"].clip(-1, 1)
    report[name] = judged(made[name], asked)
    ceiling = max(report["reconstructions"]["digits understood"], 0.1)
    report[name]["digits understood over ceiling"] = report[name]["digits understood"] / ceiling
lap("sampling and judging")
report["seconds"] = {**seconds, "total": round(sum(seconds.values()), 1)}
print(json.dumps(report, indent=1))
(args.output / "report.json").write_text(json.dumps(report, indent=1))
np.savez_compressed(args.output / "samples.npz", labels=asked, **made)

first = made[f"guidance {args.guidance[0]}"][:10]
visualization.spectrograms(first, rate, list(range(10)), num_columns=5, path=args.output / "spectrograms.png")
for digit in range(10):
    write_wav(args.output / f"{digit}.wav", first[digit], rate)
generator.save(args.output / "generator.keras")
