"""The search of many tokens among many codes, in a process of its own: its memory is the difference of two peaks."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import importlib.util
    if importlib.util.find_spec("torch"):
        import torch
    import numpy as np
    from keras import ops
    from keras_mmai import layers

    def status(key):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

    layer = layers.VectorQuantizer(num_embeddings=16384, embedding_dim=32)
    z = np.random.default_rng(0).normal(size=(16384, 32)).astype("float32")
    layer(z[:16])
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    codes = ops.convert_to_numpy(layer(z)["codes"])
    print(status("VmHWM") - before)
    assert len(np.unique(codes)) > 100
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_16384_tokens_among_16384_codes_take_at_most_150_mib():
    """The whole matrix of scores would be 1,024 MiB, and peers hold several of them."""
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.splitlines()[-1]) <= 150
