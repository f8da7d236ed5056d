"""Codebook statistics of several replicas are those of the whole batch."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
Z = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

COMMON = """
    import os, sys
    import numpy as np
    from keras_mmai import layers

    z = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

    def make(initialization):
        layer = layers.VectorQuantizer(8, 4, initialization=initialization, decay=0.9, revival_threshold=0.0, seed=1)
        layer.build((None, 4))
        return layer

    def save(layer):
        if rank == 0:
            np.savez(sys.argv[1], **{v.name: np.asarray(v) for v in (layer.embeddings, layer.counts, layer.shift)})
"""

TENSORFLOW = """
    import tensorflow as tf
    rank = 0
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = make(sys.argv[2])

    @tf.function
    def step(z):
        strategy.run(lambda rows: layer(rows, training=True), args=(z,))

    for i in range(3):
        halves = [z[:32] + i, z[32:] + i]
        step(strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(halves[context.replica_id_in_sync_group])
        ))
    save(layer)
"""

TORCH = """
    import torch
    rank = int(os.environ["RANK"])
    place = "file://" + sys.argv[1] + ".rendezvous"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    layer = make(sys.argv[2])
    with torch.no_grad():
        for i in range(3):
            layer(z[32 * rank : 32 * (rank + 1)] + i, training=True)
    save(layer)
    torch.distributed.barrier()
"""

JAX = """
    import jax
    import keras
    rank = 0
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    layer = make(sys.argv[2])
    sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "rows"), jax.sharding.PartitionSpec("rows"))
    for i in range(3):
        rows = jax.device_put(z + i, sharding)
        assert len(rows.sharding.device_set) == 2
        layer(rows, training=True)
    save(layer)
"""


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["uniform", "kmeans"])
def test_statistics_of_two_replicas_are_those_of_the_whole_batch(initialization, tmp_path):
    from keras_mmai import layers

    script = tmp_path / "replica.py"
    script.write_text(
        textwrap.dedent(COMMON) + textwrap.dedent({"tensorflow": TENSORFLOW, "torch": TORCH, "jax": JAX}[BACKEND])
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, script, tmp_path / "state.npz", initialization]
    processes = [
        subprocess.Popen(arguments, env={**environment, "RANK": str(rank)})
        for rank in range(2 if BACKEND == "torch" else 1)
    ]
    assert [process.wait() for process in processes] == [0] * len(processes)
    found = np.load(tmp_path / "state.npz")

    whole = layers.VectorQuantizer(8, 4, initialization=initialization, decay=0.9, revival_threshold=0.0, seed=1)
    whole.build((None, 4))
    for i in range(3):
        whole(Z + i, training=True)
    product = found["embeddings"] * found["counts"][:, None]
    np.testing.assert_allclose(found["sums"], product, rtol=1e-4, atol=1e-5)
    if initialization == "uniform" or BACKEND == "jax":  # else each replica draws its first codes from its own rows
        for variable in (whole.embeddings, whole.counts, whole.shift):
            np.testing.assert_allclose(found[variable.name], variable, rtol=1e-4, atol=1e-5, err_msg=variable.name)
    assert found["counts"].sum() == pytest.approx(float(np.sum(whole.counts)), rel=1e-3)
