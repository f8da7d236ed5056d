"""Modalities of data: each function takes signals, trains a tokenizer of a size that suits small ones, and returns a
`Modality`, whose `tokenizer` can be saved. For other sizes, build a tokenizer, `fit` it, and make a `Modality` of it.

All take `name`, of the modality, and options of `Modality`; those that train take `epochs`, `batch_size` and `verbose`
of `fit`. The rate rises to 2e-3 in a twentieth of the steps and falls to 0 along a cosine, by Adam.
"""

import keras
import numpy as np

from keras_mmai.layers import (
    ConvDecoder,
    ConvEncoder,
    Framewise,
    ResidualQuantizer,
    SEANetDecoder,
    SEANetEncoder,
    VectorQuantizer,
)
from keras_mmai.models import Modality
from keras_mmai.tokenizers import VAE, VQVAE, CharacterTokenizer, LabelTokenizer, SpectralLoss


def image(images, name="image", epochs=8, batch_size=32, verbose="auto", **options):
    """Images as latents of a VQ-VAE of 512 codes, one for each 4x4 pixels, snapped to them when decoded.

    Args:
        images: float (n, height, width, channels) in [-1, 1], sides multiples of 4.

    Raises:
        ValueError: on other signals.
    """
    _check(images, "images", ("n", "height", "width", "channels"), epochs)
    tokenizer = VQVAE(images.shape[1:], filters=(32, 64), quantizer=VectorQuantizer(512, 4))
    _train(tokenizer, images, epochs, batch_size, verbose)
    return Modality(name, tokenizer, **{"tokens": "latents", **options})


def audio(waveforms, sample_rate, name="audio", epochs=8, batch_size=32, verbose="auto", **options):
    """Waveforms as residual codes of a VQ-VAE with a spectral loss, two levels of 64 for each 128 samples.

    Args:
        waveforms: float (n, samples, channels) in [-1, 1], samples a multiple of 128.
        sample_rate: int, Hz.

    Raises:
        ValueError: on other signals.
    """
    _check(waveforms, "waveforms", ("n", "samples", "channels"), epochs)
    sizes = dict(strides=(4,), patch_size=32, fourier=True)
    tokenizer = VQVAE(
        waveforms.shape[1:],
        encoder=SEANetEncoder(32, 16, **sizes),
        decoder=SEANetDecoder(32, waveforms.shape[-1], **sizes),
        quantizer=ResidualQuantizer([VectorQuantizer(64, 16), VectorQuantizer(64, 16)]),
        data_variance=100.0 * _variance(waveforms),  # spectra count, phases hardly
        perceptual_loss=SpectralLoss(sample_rate, mel_weight=15.0),
        sample_rate=sample_rate,
    )
    _train(tokenizer, waveforms, epochs, batch_size, verbose)
    return Modality(name, tokenizer, **{"tokens": "codes", **options})


def video(videos, name="video", epochs=3, batch_size=4, verbose="auto", **options):
    """Videos as latents of a VAE that works on each frame by itself, 8 numbers for each 16x16 pixels; what is left of
    a frame is one token, so that a transformer has as many as there are frames.

    Args:
        videos: float (n, frames, height, width, channels) in [-1, 1], sides multiples of 16.

    Raises:
        ValueError: on other signals.
    """
    _check(videos, "videos", ("n", "frames", "height", "width", "channels"), epochs)
    tokenizer = VAE(
        videos.shape[1:],
        latent_dim=8,
        encoder=Framewise(ConvEncoder((32, 64, 128, 128), 16)),
        decoder=Framewise(ConvDecoder((32, 64, 128, 128), videos.shape[-1])),
        causal=True,
        data_variance=_variance(videos),
    )
    # frames in any order: those of a batch differ more than those of a few videos
    frames = videos.reshape(-1, *videos.shape[2:])
    frames = frames[np.random.RandomState(0).permutation(len(frames))].reshape(videos.shape)
    _train(tokenizer, frames, epochs, batch_size, verbose, global_clipnorm=1.0)
    return Modality(name, tokenizer, **{"patch_size": (1, *tokenizer.grid[1:]), **options})


def text(texts, name="text", **options):
    """Texts as characters: those that occur, and as many as the longest text has.

    Args:
        texts: list of str.

    Raises:
        ValueError: on what is no list of texts, or only of empty ones.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(t, str) for t in texts) or not any(texts):
        raise ValueError(f"`texts` is a list of str. Received: {texts!r:.100}")
    return Modality(name, CharacterTokenizer(max(map(len, texts)), "".join(sorted(set("".join(texts))))), **options)


def label(labels, name="label", **options):
    """Labels as ids, as many as the largest one says.

    Args:
        labels: ints 0.., (n,).

    Raises:
        ValueError: on other labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
        raise ValueError(f"`labels` are ints 0.., (n,). Received: {labels.shape} {labels.dtype}, {labels!r:.60}")
    return Modality(name, LabelTokenizer(int(labels.max()) + 1), **options)


def _check(signals, argument, axes, epochs):
    if not isinstance(signals, np.ndarray) or signals.ndim != len(axes) or not len(signals):
        raise ValueError(
            f"`{argument}` are an array ({', '.join(axes)}), at least one. Received: "
            f"{type(signals).__name__} {getattr(signals, 'shape', '')}"
        )
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: {epochs}")


def _variance(signals):
    """Of silence or black, too, something to divide by."""
    return max(float(signals.var()), 1e-6)


def _train(tokenizer, signals, epochs, batch_size, verbose, **options):
    steps = epochs * -(-len(signals) // batch_size)
    warm = max(1, steps // 20)
    rate = keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warm), warmup_target=2e-3, warmup_steps=warm)
    tokenizer.compile(keras.optimizers.Adam(rate, **options))
    tokenizer.fit(signals, batch_size=batch_size, epochs=epochs, verbose=verbose)
