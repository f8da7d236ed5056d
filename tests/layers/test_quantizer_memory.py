"""Large calls, each in a process of its own: its memory is the difference of two peaks."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status"),
]

HERE = Path(__file__).parent

COMMON = """
    import importlib.util
    if importlib.util.find_spec("torch"):
        import torch
    import numpy as np
    from keras import ops
    from keras_mmai import layers

    def status(key):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

    def measured(function):
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        value = function()
        print(status("VmHWM") - before)
        return value
"""

SEARCH = """
    from conftest import compile_layer

    z = np.random.default_rng(0).normal(size=(16384, 32)).astype("float32")

    def make():
        layer = layers.VectorQuantizer(num_embeddings=16384, embedding_dim=32, initialization="{initialization}")
        layer.build((None, 32))
        return compile_layer(layer, training={training})

    make()({{"z": z[:16]}})  # what the compiler itself takes is not counted
    call = make()

    def steps():
        for _ in range({steps}):
            output = call({{"z": z}})
        return ops.convert_to_numpy(output["codes"])

    assert len(np.unique(measured(steps))) > 100
"""

ENTROPY = """
    from conftest import gradients_of

    z = np.random.default_rng(0).normal(size=(1024, 16)).astype("float32")
    layer = layers.LookupFreeQuantizer(16)
    layer(z[:8])

    def gradient(z):
        return gradients_of(lambda z: layer(z, training=True)["losses"]["entropy"], [z])

    gradient(z[:8])
    value, (by_z,) = measured(lambda: gradient(z))
    assert np.isfinite(value) and np.abs(by_z).max() > 0
"""


def mebibytes(script, folder):
    """What `script` prints, which may import the conftest.py of `folder`."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    script = textwrap.dedent(COMMON) + textwrap.dedent(script)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return float(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "initialization, training, steps", [("batch", False, 1), ("batch", True, 2), ("kmeans", True, 1)]
)
def test_16384_tokens_among_16384_codes_take_at_most_150_mib(initialization, training, steps):
    """The whole matrix of scores would be 1,024 MiB, and peers hold several of them."""
    assert mebibytes(SEARCH.format(initialization=initialization, training=training, steps=steps), HERE) <= 150


def test_the_entropy_of_16_bits_at_1024_tokens_takes_at_most_100_mib():
    """With its gradient; the probabilities of each token would be 256 MiB, and peers hold several of them."""
    assert mebibytes(ENTROPY, HERE.parent) <= 100
