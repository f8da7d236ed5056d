"""Classifiers of real signals, which judge generated ones (Shi et al. 2019, section 4.3)."""

import math

import keras
import numpy as np
from keras import ops

from keras_mmai.distribution import UntunedData


class _Classifier(UntunedData, keras.Model):
    pass


def train_judge(signals, labels, epochs=8, batch_size=64, sample_rate=None, seed=0, verbose=0):
    """A small convolutional classifier of real signals, to judge generated ones by.

    Args:
        signals: float (n, *s, c), an image or a waveform: one to three axes s.
        labels: ints 0.., (n,).
        sample_rate: Hz of waveforms (n, samples, 1), which are then judged by 40 log mel bands, as speech is; None: by
            the samples themselves.
        epochs, batch_size, verbose: of `fit`.
        seed: int, of its weights.

    Returns:
        A function of signals (m, *s, c) to labels (m,) int; its `features` is one to the layer before the last,
        (m, 128), and its `model` the classifier.
    """
    signals, labels = np.asarray(signals), np.asarray(labels)
    rank = signals.ndim - 2
    if rank not in (1, 2, 3) or not len(signals) or labels.shape != (len(signals),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"A judge learns from signals (n, *s, c) and integer labels (n,), at least one. Received: {signals.shape} "
            f"and {labels.shape} {labels.dtype}"
        )
    if labels.min() < 0:
        raise ValueError(f"`labels` are ints 0.. Received: {labels.min()}")
    inputs = x = keras.Input(signals.shape[1:])
    if sample_rate is not None:
        if rank != 1 or signals.shape[-1] != 1:
            raise ValueError(f"`sample_rate` is of waveforms (n, samples, 1). Received signals: {signals.shape}")
        x, rank = _log_mels(x, sample_rate), 2
    convolution = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[rank]
    size, stride = (9, 4) if rank == 1 else (3, 2)
    initializer = keras.initializers.GlorotUniform(seed=seed)
    for filters in (32, 64) if rank > 1 else (32, 64, 64):
        options = dict(strides=stride, padding="same", activation="relu", kernel_initializer=initializer)
        x = convolution(filters, size, **options)(x)
    x = keras.layers.Dense(128, activation="relu", kernel_initializer=initializer, name="features")(
        keras.layers.Flatten()(x)
    )
    outputs = keras.layers.Dense(int(labels.max()) + 1, kernel_initializer=initializer)(
        keras.layers.Dropout(0.3, seed=seed)(x)
    )
    model = _Classifier(inputs, outputs, name="judge")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(signals, labels, batch_size=batch_size, epochs=epochs, verbose=verbose)

    def judge(signals):
        return np.argmax(model.predict(np.asarray(signals), batch_size=256, verbose=0), axis=-1)

    features = _Classifier(inputs, model.get_layer("features").output, name="features")
    judge.features = lambda signals: features.predict(np.asarray(signals), batch_size=256, verbose=0)
    judge.model = model
    return judge


def _log_mels(waveforms, sample_rate, floor=1e-3):
    """Waveforms (n, samples, 1) to log10 mel magnitudes (n, bands, frames, 1), of some 32 ms every 16."""
    frame = 2 ** round(math.log2(0.032 * sample_rate))
    options = dict(sampling_rate=sample_rate, num_mel_bins=40, mag_exp=1.0, power_to_db=False)
    mels = keras.layers.MelSpectrogram(frame, frame // 2, **options)(waveforms[:, :, 0])
    return ops.log10(ops.maximum(mels, floor))[..., None]
