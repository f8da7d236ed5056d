import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VQVAE, DiffusionTransformer, DiT, callbacks
from keras_mmai.callbacks import CURRENT, PREVIOUS, Checkpoint, restore, save
from keras_mmai.data import ArrayDataset
from keras_mmai.layers import VectorQuantizer
from keras_mmai.training import TrainingModel

X = np.random.RandomState(0).uniform(-1, 1, size=(24, 4, 1)).astype("float32")


class Tiny(TrainingModel):
    """The smallest model with all the state there is: weights, averages, optimizer slots and random numbers."""

    def __init__(self, width=3):
        super().__init__(("error",), (0.9, 0.999))
        self.width = width
        self.first = keras.layers.Dense(width, activation="tanh", kernel_initializer="glorot_normal")
        self.drop = keras.layers.Dropout(0.3, seed=1)
        self.last = keras.layers.Dense(1)
        self.first.build((None, 4, 1))
        self.last.build((None, 4, width))
        self.build_averages()
        self.built = True

    def call(self, x, training=False):
        return self.last(self.drop(self.first(x), training=training))

    def named_losses(self, x, y_pred):
        return {"error": ops.mean(ops.square(y_pred - x), axis=(1, 2))}


def make(width=3, optimizer=None, run_eagerly=True):
    model = Tiny(width)
    model.compile(optimizer or keras.optimizers.Adam(1e-2), run_eagerly=run_eagerly)
    return model


def make_compiled():
    return make(run_eagerly=False)


def dataset():
    return ArrayDataset(X, batch_size=6, seed=5)


def state(model):
    """All variables, the random seeds too."""
    return [ops.convert_to_numpy(v.value) for v in [*model.variables, *model.optimizer.variables]]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)


def train(directory, epochs, make=make, **kwargs):
    """What a user's script does each time it is started."""
    keras.utils.set_random_seed(0)
    model, data = make(), dataset()
    callback = Checkpoint(directory, data=data, **kwargs)
    history = model.fit(data, epochs=epochs, callbacks=[callback], verbose=0)
    return model, history


@pytest.fixture
def saved(tmp_path):
    """A model of two epochs, and the folder of its checkpoints."""
    return train(tmp_path, 2)[0], tmp_path


# Resuming


def test_a_resumed_training_equals_the_uninterrupted_one(tmp_path):
    whole, whole_history = train(tmp_path / "whole", 4, make_compiled)
    train(tmp_path / "parts", 1, make_compiled)
    _, second = train(tmp_path / "parts", 3, make_compiled)
    resumed, third = train(tmp_path / "parts", 4, make_compiled)
    assert second.epoch == [1, 2] and third.epoch == [3]
    assert_equal(state(whole), state(resumed))
    assert second.history["loss"] + third.history["loss"] == whole_history.history["loss"][1:]
    assert any((a != b).any() for a, b in zip(state(make()), state(resumed)))


def make_dit():
    network = DiT((4, 1), patch_size=2, hidden_dim=16, num_layers=1, num_heads=2)
    model = DiffusionTransformer(network, ema_decays=(0.9,), seed=0)
    model.compile(keras.optimizers.AdamW(1e-2))
    return model


def make_vqvae():
    """With codes that are revived, from latents drawn at random."""
    quantizer = VectorQuantizer(16, 2, decay=0.5, revival_threshold=0.9)
    model = VQVAE((4, 1), filters=(4,), num_residual_layers=1, residual_filters=4, quantizer=quantizer)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_dit, make_vqvae])
def test_a_resumed_model_equals_the_uninterrupted_one(make, tmp_path):
    whole, _ = train(tmp_path / "whole", 3, make)
    train(tmp_path / "parts", 2, make)
    resumed, _ = train(tmp_path / "parts", 3, make)
    assert_equal(state(whole), state(resumed))


def test_the_order_of_the_data_goes_on_only_if_the_data_is_given(tmp_path):
    train(tmp_path, 2)
    data = dataset()
    make().fit(data, epochs=2, callbacks=[Checkpoint(tmp_path, data=data)], verbose=0)  # nothing left to do
    assert data.epoch == 2
    data = dataset()
    make().fit(data, epochs=2, callbacks=[Checkpoint(tmp_path)], verbose=0)
    assert data.epoch == 0


def test_a_fit_after_a_resumed_one_starts_where_it_is_told(tmp_path):
    model, _ = train(tmp_path, 2)
    history = model.fit(dataset(), epochs=1, verbose=0)
    assert history.epoch == [0]


def test_every_saves_the_last_epoch_too(tmp_path):
    model, _ = train(tmp_path / "a", 3, every=2)
    fresh = make()
    assert restore(fresh, tmp_path / "a") == 3
    assert_equal(state(model), state(fresh))
    os.remove(tmp_path / "a" / CURRENT)
    assert restore(make(), tmp_path / "a") == 2
    train(tmp_path / "b", 2, every=2)
    assert restore(make(), tmp_path / "b") == 2 and not (tmp_path / "b" / PREVIOUS).exists()
    with pytest.raises(ValueError, match=r"at least 1.*Received: 0"):
        Checkpoint(tmp_path, every=0)


def test_resume_false_starts_anew(saved):
    model, directory = saved
    again, history = train(directory, 2, resume=False)
    assert history.epoch == [0, 1]
    assert_equal(state(model), state(again))


def test_nothing_to_restore(tmp_path):
    model = make()
    before = state(model)
    assert restore(model, tmp_path / "none") is None
    assert_equal(before, state(model))


def test_low_precision_weights_come_back_exactly(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = Tiny()
    model.compile("sgd")
    save(model, tmp_path, 1)
    other = Tiny()
    other.compile("sgd")
    assert restore(other, tmp_path) == 1
    for a, b in zip(model.variables, other.variables):
        np.testing.assert_array_equal(*[ops.convert_to_numpy(ops.cast(v.value, "float32")) for v in (a, b)])


# Files that are broken or strange


def test_half_a_file_is_passed_over_for_the_one_before(saved):
    _model, directory = saved
    whole = (directory / CURRENT).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-20], b"", whole[:200] + bytes(200) + whole[400:]):
        (directory / CURRENT).write_bytes(part)
        fresh = make()
        with pytest.warns(UserWarning, match=r"checkpoint.npz: .*. Restored .*checkpoint.previous.npz instead"):
            assert restore(fresh, directory) == 1
        assert int(fresh.optimizer.iterations) == 4
    (directory / PREVIOUS).write_bytes(whole[:100])
    fresh = make()
    before = state(fresh)
    with pytest.raises(ValueError, match=r"No checkpoint can be read(.|\n)*resume=False"):
        fresh.fit(dataset(), epochs=1, callbacks=[Checkpoint(directory)], verbose=0)
    assert_equal(before, state(fresh)[: len(before)])


def test_random_damage_is_seen(saved):
    _, directory = saved
    whole = (directory / CURRENT).read_bytes()
    (directory / PREVIOUS).unlink()
    draw = random.Random(0)
    fresh = make()
    fresh.optimizer.build(fresh.trainable_variables)
    reference = state(saved[0])
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 50])):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        (directory / CURRENT).write_bytes(damaged)
        try:
            restore(fresh, directory)
        except ValueError:
            continue
        assert_equal(reference, state(fresh))  # the damage was in a date or in padding


@pytest.mark.parametrize("content", ["npz", "npy", "text"])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / CURRENT
    with open(path, "wb") as file:
        if content == "text":
            file.write(b"not a checkpoint")
        elif content == "npz":
            np.savez(file, weights=np.zeros(3))
        else:
            np.save(file, np.zeros(3))
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=r"No checkpoint can be read(.|\n)*checkpoint.npz"):
        restore(model, tmp_path)
    assert_equal(before, state(model)[: len(before)])


def test_another_format_is_refused(saved, monkeypatch):
    monkeypatch.setattr(callbacks, "FORMAT", "keras_mmai checkpoint 2")
    with pytest.raises(ValueError, match="of format 'keras_mmai checkpoint 1', this version reads"):
        restore(make(), saved[1])


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: make(width=5), r"another model or optimizer \(Tiny\).*\(1, 5\) here.*\(1, 3\) there"),
        (lambda: make(optimizer=keras.optimizers.SGD(0.1)), "variables here"),
        (lambda: make(optimizer=keras.optimizers.Nadam(0.1)), "'Nadam'.* here, .*'Adam'.* there"),
    ],
)
def test_another_model_is_refused_and_unchanged(saved, other, message):
    model = other()
    model.optimizer.build(model.trainable_variables)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        restore(model, saved[1])
    assert_equal(before, state(model))


# A crash at any moment

KILLS = """
import importlib.util, os, random, signal, sys, time
import numpy as np

spec = importlib.util.spec_from_file_location("callbacks", sys.argv[1])
callbacks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(callbacks)


class Variable:
    def __init__(self, path):
        self.path, self.shape = path, (64, 64)
        self.assign(np.zeros(self.shape))

    def assign(self, value):
        self.value = value


class Model:
    def __init__(self):
        self.optimizer, self.variables = None, [Variable(f"v{i}") for i in range(8)]


model, directory, draw, kept = Model(), sys.argv[2], random.Random(0), 0
callbacks.save(model, directory, 0)
for _ in range(20):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            kept += 1
            for variable in model.variables:
                variable.assign(np.full((64, 64), kept, "float64"))
            callbacks.save(model, directory, kept)
            os.write(write, b".")
    time.sleep(draw.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    finished = kept + len(os.read(read, 10**6))
    os.close(read)
    epoch = callbacks.restore(model, directory)
    assert epoch in (finished, finished + 1), (epoch, finished)
    assert all((variable.value == epoch).all() for variable in model.variables), epoch
    kept = epoch
print(kept)
"""


def test_a_kill_at_any_moment_leaves_a_state_that_was_saved(tmp_path):
    # A process of its own on the numpy backend, which has no threads and may fork
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    command = [sys.executable, "-c", KILLS, callbacks.__file__, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20
