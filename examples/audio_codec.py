"""An audio codec at 1 kilobit per second, and what it does to speech.

    python examples/audio_codec.py --output audio_run

Spoken digits are read from the prepared folder that TFDS_DATA_DIR names (see `load_spoken_digits`); without it the
codec learns synthetic notes, and says so. Writes WAV files, spectrograms and the trained tokenizer, after about 12
minutes on two CPU cores. `benchmarks/speech_judge.py` tells how much of the speech is understood.
"""

import argparse
import json
import pathlib

import keras
import numpy as np

from keras_mmai import VQVAE
from keras_mmai.data import load_spoken_digits, synthetic_audio, vary_waveforms, write_wav
from keras_mmai.layers import ResidualQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer
from keras_mmai.metrics import mel_distance, si_sdr
from keras_mmai.tokenizers import SpectralLoss
from keras_mmai.visualization import spectrograms

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", type=pathlib.Path, default="audio_run")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--smoke", action="store_true", help="a few steps on short sounds")
args = parser.parse_args()
keras.utils.set_random_seed(0)
rate, samples, filters = (8000, 2048, 4) if args.smoke else (8000, 5120, 96)
try:
    digits = load_spoken_digits(num_samples=samples)
    train, test = digits["train"]["waveforms"], digits["test"]["waveforms"]
except FileNotFoundError as error:
    print(f"Synthetic notes instead of spoken digits. {error}")
    train, test = np.split(synthetic_audio(1200, samples, rate)["waveforms"], [1000])
if args.smoke:
    train, test, args.epochs = train[:16], test[:16], 1

train = vary_waveforms(train)  # four of each: the codec would learn 2,700 recordings by heart
# spectra every 32 samples, strides of 4 and 2: 8000 / 256 tokens a second, each of 4 levels of 8 bits, make 1 kb/s
sizes = dict(strides=(4, 2), patch_size=32, fourier=True, causal=True)
codec = VQVAE(
    train.shape[1:],
    causal=True,
    encoder=SEANetEncoder(filters, 32, **sizes),
    decoder=SEANetDecoder(filters, 1, **sizes),
    quantizer=ResidualQuantizer([VectorQuantizer(256, 32, seed=i) for i in range(4)]),
    data_variance=100.0 * float(train.var()),  # at this rate phases can't be kept: spectra count, waveforms hardly
    perceptual_loss=SpectralLoss(rate, mel_weight=30.0),
    sample_rate=rate,
    ema_decays=(0.99,),
)
steps = args.epochs * (len(train) // 16)
warm = steps // 50
schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=2e-3, warmup_steps=warm)
codec.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0))
codec.fit(train, batch_size=16, epochs=args.epochs, validation_data=(test,), verbose=2)
codec.assign_averages()

out = codec.predict(test, batch_size=16, verbose=0)["outputs"].clip(-1, 1)
report = {
    "kilobits_per_second": codec.bits_per_second / 1000,
    "si_sdr_db": float(np.median(si_sdr(test, out))),
    "mel_distance": float(np.mean(mel_distance(test, out, rate))),
}
print(json.dumps(report, indent=1))
args.output.mkdir(parents=True, exist_ok=True)
(args.output / "report.json").write_text(json.dumps(report, indent=1))
spectrograms(np.stack([test[:4], out[:4]], 1).reshape(-1, *test.shape[1:]), rate, path=args.output / "spectrograms.png")
for i in range(4):
    write_wav(args.output / f"{i}_original.wav", test[i], rate)
    write_wav(args.output / f"{i}_codec.wav", out[i], rate)
codec.save(args.output / "codec.keras")
