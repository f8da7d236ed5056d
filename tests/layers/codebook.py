"""What the tests of quantizers share: a quantizer whose codes are known, its state, and float64 references."""

import numpy as np
from keras import ops

from keras_mmai import layers

CODEBOOKS, DISTANCES = ("ema", "gradient"), ("euclidean", "cosine")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def quantizer(k=8, dim=4, **kwargs):
    """A built quantizer whose codes are known: normal numbers, and no revival unless asked for."""
    kwargs = {"initialization": "uniform", "revival_threshold": 0.0, "seed": 1, **kwargs}
    layer = layers.VectorQuantizer(k, dim, **kwargs)
    layer.build((None, None, dim))
    if kwargs["initialization"] == "uniform":
        place(layer, normal(k, dim, seed=5))
    return layer


def place(layer, codes):
    codes = unit(codes) if layer.distance == "cosine" else codes
    layer.embeddings.assign(codes)
    layer.shift.assign(0 * codes if layer.codebook == "gradient" else codes)
    layer.counts.assign(np.ones(len(codes)))


def use(layer, counts):
    """Sets how often each code has been used, keeping e = M / N."""
    layer.counts.assign(counts)
    if layer.codebook == "ema":
        layer.shift.assign(layer.codes * layer.counts[:, None])


def numbers(value):
    return np.asarray(ops.convert_to_numpy(value))


def state(layer):
    return {v.name: numbers(v) for v in (layer.embeddings, layer.uses, layer.counts, layer.shift, layer.initialized)}


def nearest(z, codes):
    score = z.astype("float64") @ codes.astype("float64").T - 0.5 * np.square(codes.astype("float64")).sum(-1)
    return score.argmax(-1)


def reference(z, codes, beta, valid):
    """Codes, vectors and losses of the valid rows in float64, by the definition."""
    z, codes = z.reshape(-1, z.shape[-1]).astype("float64"), codes.astype("float64")
    index = np.square(z[:, None] - codes).sum(-1).argmin(-1)
    error = np.square(z - codes[index])[valid.reshape(-1)].mean()
    return index, codes[index], {"commitment": beta * error, "codebook": error}
