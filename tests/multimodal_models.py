"""A small model of three modalities, and data for it: latents on a grid, a text, and codes of two levels."""

import keras
import numpy as np
from keras import ops

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.tokenizers import PassThrough

numpy = ops.convert_to_numpy
SMALL = dict(hidden_dim=16, num_layers=1, num_heads=2)
TASKS = {
    "all": ((), ("picture", "word", "sound")),
    "picture_to_word": (("picture",), ("word",)),
    "word_to_rest": (("word",), ("picture", "sound")),
    "rest_to_word": (("picture", "sound"), ("word",)),
}


def modalities(weights=None):
    weights = weights or {}
    return [
        Modality("picture", PassThrough((4, 4, 2)), patch_size=2, weight=weights.get("picture", 1.0)),
        Modality("word", PassThrough((3,), 6), weight=weights.get("word", 1.0)),
        Modality("sound", PassThrough((4, 2), 5), rate=4.0, code_axes=1, weight=weights.get("sound", 1.0)),
    ]


def awake(network):
    """A fresh transformer returns zeros, whatever it is told: gives it other weights, the same on every backend."""
    for i, variable in enumerate(network.trainable_variables):
        values = np.random.RandomState(i).normal(size=variable.shape) * 0.15
        variable.assign(values.astype("float32"))
    return network


def make(tasks=None, weights=None, streams="separate", **kwargs):
    mods = modalities(weights)
    network = awake(MultimodalDiT(mods, streams=streams, **SMALL))
    return MultimodalDiffusionTransformer(
        mods, network, TASKS if tasks is None else tasks, seed=0, **{"ema_decays": (), "partly_known": 0.0, **kwargs}
    )


def batch_of(n, given=False):
    """Tokens of n examples; with their times and noise if `given`."""
    random = np.random.RandomState(0)
    batch = {
        "picture": random.uniform(-1, 1, (n, 4, 4, 2)).astype("float32"),
        "word": random.randint(0, 6, (n, 3)).astype("int32"),
        "sound": random.randint(0, 5, (n, 4, 2)).astype("int32"),
    }
    if given:
        batch["t"] = {name: random.uniform(0.2, 0.9, n).astype("float32") for name in batch}
        batch["noise"] = {
            "picture": random.normal(size=(n, 4, 4, 2)).astype("float32"),
            "word": random.rand(n, 3).astype("float32"),
            "sound": random.rand(n, 4, 2).astype("float32"),
        }
    return batch


def tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def assert_close(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(numpy(one[name]), numpy(other[name]), rtol=1e-5, atol=atol, err_msg=name)


def losses_of(model, out):
    return {name: loss for name, (loss, _) in model.named_losses(None, out).items()}
