"""How well does a codec keep speech? A classifier of spoken digits hears recordings and what the codec makes of them.

    TFDS_DATA_DIR=... python benchmarks/speech_judge.py audio_run/codec.keras

The classifier is trained here on log mel spectrograms of the 2,700 real training recordings, and asked about the 300 of
the official test split, real and reconstructed. Printed are its accuracies and their ratio, SI-SDR, the mel distance,
and the codec's rate.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_mmai import metrics
from keras_mmai.data import load_spoken_digits

EPOCHS, BATCH = 30, 64


def log_mels(waveforms, rate):
    """(n, samples, 1) to (n, frames, 40) float32, log10 of mel magnitudes."""
    mels = keras.layers.MelSpectrogram(256, 128, sampling_rate=rate, num_mel_bins=40, mag_exp=1.0, power_to_db=False)
    parts = [
        keras.ops.convert_to_numpy(mels(part[..., 0])) for part in np.split(waveforms, range(128, len(waveforms), 128))
    ]
    return np.log10(np.maximum(np.concatenate(parts), 1e-3)).transpose(0, 2, 1)


def classifier(shape):
    x = inputs = keras.Input(shape)
    for filters in (64, 96, 128):
        x = keras.layers.Conv1D(filters, 5, padding="same", use_bias=False)(x)
        x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dropout(0.2)(keras.layers.MaxPooling1D(2)(x))
    x = keras.layers.GlobalMaxPooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Dropout(0.4)(x)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", nargs="+", help="saved tokenizers")
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    codecs = [keras.saving.load_model(path, compile=False) for path in args.codec]
    digits = load_spoken_digits(num_samples=codecs[0].input_shape[0])
    train, test, rate = digits["train"], digits["test"], digits["sample_rate"]

    model = classifier(log_mels(test["waveforms"][:1], rate).shape[1:])
    steps = EPOCHS * (len(train["labels"]) // BATCH)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps), weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(log_mels(train["waveforms"], rate), train["labels"], batch_size=BATCH, epochs=EPOCHS, verbose=0)

    def accuracy(waveforms):
        logits = model.predict(log_mels(waveforms, rate), verbose=0)
        return float(np.mean(logits.argmax(-1) == test["labels"]))

    real = accuracy(test["waveforms"])
    print(f"real recordings: accuracy {real:.3f}")
    for path, codec in zip(args.codec, codecs):
        out = codec.predict(test["waveforms"], batch_size=16, verbose=0)["outputs"].clip(-1, 1)
        found = accuracy(out)
        print(
            f"{path}: {codec.bits_per_second / 1000:.2f} kb/s, accuracy {found:.3f} ({found / real:.3f} of real), "
            f"SI-SDR {np.median(metrics.si_sdr(test['waveforms'], out)):.1f} dB (median), "
            f"mel distance {np.mean(metrics.mel_distance(test['waveforms'], out, rate)):.3f}"
        )


if __name__ == "__main__":
    main()
