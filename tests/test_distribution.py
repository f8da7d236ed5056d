"""Statistics of several replicas are those of the whole batch, and every replica has the same."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from small_models import make_dit, signals

from keras_mmai.data import ArrayDataset

BACKEND = keras.backend.backend()
Z = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

COMMON = """
    import os, sys
    import numpy as np
    from keras_mmai import layers
    from keras_mmai.tokenizers import Standardize

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


# each case is one call on both ranks: a quantizer, the rows of a step, and its mask
TORCH_CASES = """
    import torch
    rank = int(os.environ["RANK"])
    place = "file://" + sys.argv[1] + ".rendezvous"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)

    def train(layer, masked_rank=None):
        layer.build((None, 4))
        with torch.no_grad():
            for i in range(3):
                mask = torch.full((32,), rank != masked_rank)
                layer(z[32 * rank : 32 * (rank + 1)] + i, mask=mask, training=True)
        return {v.name: np.asarray(v) for v in layer.weights}

    def train_without_mask(layer):
        with torch.no_grad():
            for i in range(3):
                layer(z[32 * rank : 32 * (rank + 1)] + i, training=True)
        return {v.name: np.asarray(v) for v in layer.weights}

    def vectors(**kwargs):
        options = {"initialization": "uniform", "revival_threshold": 0.0, "seed": 1, **kwargs}
        return layers.VectorQuantizer(8, 4, **options)

    cases = {
        "start": train(vectors(initialization="batch", decay=0.5, revival_threshold=0.9)),
        "kmeans": train(vectors(codebook="gradient", initialization="kmeans", decay=0.5, revival_threshold=0.9)),
        "masked first": train(vectors(decay=0.9), masked_rank=0),
        "masked second": train(vectors(decay=0.9), masked_rank=1),
        "masked start": train(vectors(initialization="batch", decay=0.5, revival_threshold=0.9), masked_rank=1),
        "grid": train(layers.FiniteScalarQuantizer((5, 3), 4)),
        "bits": train(layers.LookupFreeQuantizer(4)),
        "mapped": train(layers.SimVQ(8, 4, seed=1)),
        "standardized": train_without_mask(Standardize()),
    }
    arrays = {f"{case}/{name}": value for case, weights in cases.items() for name, value in weights.items()}
    np.savez(f"{sys.argv[1]}.{rank}.npz", **arrays)
    torch.distributed.barrier()
"""


def run_replicas(script, folder, *arguments):
    path = folder / "replica.py"
    path.write_text(textwrap.dedent(COMMON) + textwrap.dedent(script))
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, path, *arguments], env={**environment, "RANK": str(rank)})
        for rank in range(2 if BACKEND == "torch" else 1)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["uniform", "kmeans"])
def test_statistics_of_two_replicas_are_those_of_the_whole_batch(initialization, tmp_path):
    from keras_mmai import layers

    script = {"tensorflow": TENSORFLOW, "torch": TORCH, "jax": JAX}[BACKEND]
    run_replicas(script, tmp_path, tmp_path / "state.npz", initialization)
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


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """case -> the weights of both ranks after three steps."""
    folder = tmp_path_factory.mktemp("ranks")
    run_replicas(TORCH_CASES, folder, folder / "state")
    files = [np.load(folder / f"state.{rank}.npz") for rank in range(2)]

    def of(case):
        return [{key.split("/")[1]: file[key] for key in file if key.startswith(case + "/")} for file in files]

    return of


torch_ranks = pytest.mark.skipif(BACKEND != "torch", reason="a rank is a process of torch.distributed")


@pytest.mark.slow
@torch_ranks
@pytest.mark.parametrize("case", ["start", "kmeans", "masked first", "masked second", "masked start"])
def test_both_ranks_end_with_the_same_codes(case, ranks):
    first, second = ranks(case)
    assert set(first) == {"embeddings", "uses", "counts", "initialized", "shift" if case == "kmeans" else "sums"}
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    assert first["initialized"] == 1


@pytest.mark.slow
@torch_ranks
@pytest.mark.parametrize("case, rows", [("masked first", slice(32, 64)), ("masked second", slice(32))])
def test_of_a_rank_that_is_masked_out_nothing_counts(case, rows, ranks):
    from keras_mmai import layers

    alone = layers.VectorQuantizer(8, 4, initialization="uniform", decay=0.9, revival_threshold=0.0, seed=1)
    alone.build((None, 4))
    for i in range(3):
        alone(Z[rows] + i, training=True)
    found = ranks(case)[0]
    for variable in (alone.embeddings, alone.counts, alone.shift):
        np.testing.assert_allclose(found[variable.name], variable, rtol=1e-4, atol=1e-5, err_msg=variable.name)


@pytest.mark.slow
@torch_ranks
@pytest.mark.parametrize("case", ["grid", "bits", "mapped"])
def test_use_is_counted_over_both_ranks(case, ranks):
    for found in ranks(case):
        total = 0.01 * 64 * sum(0.99**i for i in range(3))
        assert found["uses"].sum() == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
@torch_ranks
def test_latents_are_standardised_by_both_ranks(ranks):
    from keras_mmai.tokenizers import Standardize

    whole = Standardize()
    for i in range(3):
        whole(Z + i, training=True)
    for found in ranks("standardized"):
        for variable in whole.weights:
            np.testing.assert_allclose(found[variable.name], variable, rtol=1e-4, err_msg=variable.name)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data makes the batches of TensorFlow alone")
def test_no_autotuner_watches_data_unasked(monkeypatch):
    """As an epoch's end may wait for its last look."""
    import tensorflow as tf

    tuned, iterate = [], tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda d: tuned.append(d.options().autotune.enabled) or iterate(d))
    model, x = make_dit(), signals(4)
    model.compile("sgd")
    pipeline = tf.data.Dataset.from_tensor_slices(x).batch(2)
    for data in (x, ArrayDataset(x, batch_size=2), pipeline):
        model.fit(data, shuffle=False, verbose=0)
        model.evaluate(data, verbose=0)
    model.generator(num_steps=1).generate(num_samples=2, seed=0)
    assert len(tuned) >= 7 and not any(flag is None or flag for flag in tuned)
    asked = tf.data.Options()
    asked.autotune.enabled = True
    tuned.clear()
    model.evaluate(pipeline.with_options(asked), verbose=0)
    assert tuned and all(tuned)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        assert isinstance(make_dit().distribute_strategy, tf.distribute.MirroredStrategy)
