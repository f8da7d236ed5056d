"""How the model of several modalities is trained: from which data, in which precision, and on after a break."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, awake, batch_of, losses_of, make, tensors
from small_models import BACKEND, SIZES, assert_same, heavy, loss_of, signals, state, weights_of

from keras_mmai import VQVAE, Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.callbacks import Checkpoint
from keras_mmai.data import ArrayDataset, mix
from keras_mmai.layers import VectorQuantizer
from keras_mmai.tokenizers import LabelTokenizer

numpy = ops.convert_to_numpy
ROWS, BATCH = 12, 4


def stream(data):
    """A tf.data.Dataset of batches, on every backend."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def fitted(model, data, start, **kwargs):
    """The losses of one epoch from the weights `start`, and the weights after it."""
    for variable, value in zip(model.trainable_variables, start):
        variable.assign(value)
    history = model.fit(data, epochs=1, shuffle=False, verbose=0, **kwargs).history
    return history, weights_of(model.trainable_variables)


def assert_same_training(one, other):
    (history, weights), (losses, others) = one, other
    for name in history:
        np.testing.assert_allclose(history[name], losses[name], rtol=1e-5, err_msg=name)
    for a, b in zip(weights, others):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def with_absent(n):
    """Tokens, times, noise and tasks of n examples, and which they have."""
    data, random = batch_of(n, given=True), np.random.RandomState(1)
    data["task"] = random.randint(0, len(TASKS), n).astype("int32")
    data["present"] = {
        "picture": random.rand(n) < 0.6,
        "word": np.arange(3) < random.randint(1, 4, (n, 1)),
        "sound": random.rand(n, 4) < 0.7,
    }
    return data


@heavy
@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of what is for sounds, which nothing has
def test_fit_on_a_mix_learns_of_each_part_what_it_has():
    """Pairs and words alone: pictures are learned of the pairs, and words of both."""
    model, data = make(), batch_of(8, given=True)
    pairs, words = {name: data[name][:4] for name in ("picture", "word")}, {"word": data["word"][4:]}
    mixed = mix([(pairs, 1), (words, 1)])
    here = mixed["present"]["picture"]
    assert here.sum() == 4 and len(here) == 8 and "word" not in mixed["present"]
    drawn = {key: {name: data[key][name] for name in pairs} for key in ("t", "noise")}
    mixed |= drawn | {"task": np.zeros(8, "int32")}
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=BACKEND != "jax")
    model.fit(mixed, batch_size=4, verbose=0)
    assert ops.convert_to_numpy(model.seen).tolist() == [1, 1, 0]
    found = model.evaluate(mixed, batch_size=8, verbose=0, return_dict=True)

    def rows(flags):
        return keras.tree.map_structure(lambda x: x[flags], {name: mixed[name] for name in (*pairs, *drawn, "task")})

    of_pairs = model.evaluate(rows(here), batch_size=4, verbose=0, return_dict=True)
    rest = rows(~here)
    del rest["picture"], rest["t"]["picture"], rest["noise"]["picture"]
    of_words = model.evaluate(rest, batch_size=4, verbose=0, return_dict=True)
    assert found["picture"] == pytest.approx(of_pairs["picture"], rel=1e-5)
    assert found["word"] == pytest.approx((of_pairs["word"] + of_words["word"]) / 2, rel=1e-5)


@heavy
def test_fit_on_a_dataset_of_tensorflow_with_what_is_present():
    """It trains as on arrays, and what is absent may hold anything."""
    model, data = make(), with_absent(ROWS)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=BACKEND != "jax")
    start = weights_of(model.trainable_variables)
    arrays = fitted(model, data, start, batch_size=BATCH)
    data["picture"] = np.where(data["present"]["picture"][:, None, None, None], data["picture"], np.nan)
    data["word"] = np.where(data["present"]["word"], data["word"], 0)
    assert np.isnan(data["picture"]).any()
    found = fitted(model, stream(data), start)
    assert_same_training(found, arrays)
    assert found[0]["skipped_steps"] == [0.0] and np.isfinite(found[0]["loss"]).all()
    assert max(np.abs(a - b).max() for a, b in zip(found[1], start)) > 1e-3
    del data["present"]
    assert fitted(model, stream(data), start)[0]["skipped_steps"][0] > 0


def in_step(tokens):
    """A VQVAE's tokens with a label; its codes are some of its latents."""
    quantizer = VectorQuantizer(16, 4, revival_threshold=0.0, seed=0)
    tokenizer = VQVAE((8, 8, 1), quantizer=quantizer, **SIZES)
    latents = numpy(tokenizer.encoded(signals(ROWS))).reshape(-1, 4)
    codes = np.random.RandomState(0).permutation(latents)[:16]
    for variable in (quantizer.embeddings, quantizer.shift):
        variable.assign(codes)
    quantizer.initialized.assign(1.0)
    mods = [Modality("image", tokenizer, tokens=tokens), Modality("label", LabelTokenizer(3))]
    network = awake(MultimodalDiT(mods, **SMALL))
    return MultimodalDiffusionTransformer(mods, network, ema_decays=(), partly_known=0.0, seed=0)


@heavy
@pytest.mark.parametrize("tokens", ["codes", "latents"])
def test_a_tokenizer_encodes_in_every_step(tokens):
    """Signals in a dataset of TensorFlow give the losses and the weights that their tokens give."""
    model, random = in_step(tokens), np.random.RandomState(1)
    shape, x = model.modalities[0].token_shape, signals(ROWS)
    draw = random.uniform if tokens == "codes" else random.normal
    data = {
        "image": x,
        "label": (np.arange(ROWS) % 3)[:, None].astype("int32"),
        "task": (np.arange(ROWS) % len(model.tasks)).astype("int32"),
        "t": {name: random.uniform(0.2, 0.9, ROWS).astype("float32") for name in ("image", "label")},
        "noise": {
            "image": draw(size=(ROWS, *shape)).astype("float32"),
            "label": random.rand(ROWS, 1).astype("float32"),
        },
    }
    encoded = model.precompute({"image": x})["image"]
    assert encoded.shape == (ROWS, *shape) and len(np.unique(encoded)) > 3
    assert loss_of(model, data) == pytest.approx(loss_of(model, {**data, "image": np.asarray(encoded)}), rel=1e-5)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=BACKEND != "jax")
    start, frozen = weights_of(model.trainable_variables), weights_of(model.modalities[0].tokenizer.variables)
    by_signals = fitted(model, stream(data), start)
    by_tokens = fitted(model, stream({**data, "image": np.asarray(encoded)}), start)
    assert_same_training(by_signals, by_tokens)
    for before, after in zip(frozen, weights_of(model.modalities[0].tokenizer.variables)):
        np.testing.assert_array_equal(before, after)


class Kill(keras.callbacks.Callback):
    """Ends a training in the middle of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            raise KeyboardInterrupt


def train(directory, seed, *callbacks):
    """What a script does each time it is started."""
    keras.utils.set_random_seed(seed)
    tokens = {key: value for key, value in with_absent(ROWS).items() if key not in ("t", "noise", "task")}
    data = ArrayDataset(tokens, batch_size=BATCH, seed=5)
    model = make(ema_decays=(0.9,), partly_known=0.5, independent_times=0.5)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(
        data, epochs=3, callbacks=[Checkpoint(directory, data=data), *callbacks], verbose=0, shuffle=True
    )
    return model, history


@pytest.mark.slow
def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    whole, history = train(tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 0, Kill())
    resumed, rest = train(tmp_path / "parts", 1)
    assert history.epoch == [0, 1, 2] and rest.epoch == [2]
    for name, values in rest.history.items():
        assert values == history.history[name][2:], name
    assert_same(*(dict(enumerate(state(model).values())) for model in (whole, resumed)))
    np.testing.assert_array_equal(numpy(whole.seed_generator.state), numpy(resumed.seed_generator.state))
    word = {"word": batch_of(2)["word"]}
    ours, theirs = (model.generator(num_steps=2).generate(word, ["sound"]) for model in (whole, resumed))
    np.testing.assert_array_equal(ours["sound"], theirs["sound"])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_fits_and_generates(policy):
    if (BACKEND, policy) == ("jax", "mixed_float16"):
        pytest.skip("JAX has no float16 attention on a CPU")
    keras.config.set_dtype_policy(policy)
    model, data = make(ema_decays=(0.9,)), {**batch_of(ROWS), "present": with_absent(ROWS)["present"]}
    model.compile(keras.optimizers.Adam(1e-2))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    if policy == "mixed_float16":
        model.optimizer.initial_scale = 2.0**10
    before = weights_of(model.trainable_variables)
    history = model.fit(ArrayDataset(data, batch_size=BATCH), epochs=3, verbose=0).history
    assert all(np.isfinite(history[name]).all() for name in ("loss", "picture", "word", "sound", "gradient_norm"))
    assert history["skipped_steps"] == [0.0] * 3
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}
    assert max(np.abs(a - b).max() for a, b in zip(before, weights_of(model.trainable_variables))) > 1e-2
    for name, x in model.generator(num_steps=2).generate(num_samples=3).items():
        assert x.dtype == batch_of(1)[name].dtype and np.isfinite(x).all()


# Weights of examples

WEIGHT = np.array([1.0, 0.0, 2.0, 0.5], "float32")


def weighted(model, batch, weight):
    """The loss at training=True, as a step computes it."""
    return model.compute_loss(
        x=batch, y_pred=model(tensors(batch), training=True), sample_weight=ops.convert_to_tensor(weight)
    )


@heavy
def test_an_example_without_weight_changes_nothing(gradients):
    """Neither what it holds, nor its task, nor what it lacks."""
    model, batch = make(), with_absent(4)
    batch["task"] = np.array([0, 1, 2, 0], "int32")
    others = []
    for task, here in ((0, True), (2, True), (1, False), (3, True)):
        other = keras.tree.map_structure(np.copy, batch)
        other["picture"][1] *= -1.0
        other["word"][1], other["sound"][1] = (other["word"][1] + 1) % 6, (other["sound"][1] + 1) % 5
        other["task"][1] = task
        for flags in other["present"].values():
            flags[1] = here
        others.append(other)
    found = [gradients(lambda b=b: weighted(model, b, WEIGHT), (), model.trainable_variables) for b in (batch, *others)]
    (loss, expected), changed = found[0], found[1:]
    assert max(np.abs(g).max() for g in expected) > 1e-2
    for value, grads in changed:
        assert value == pytest.approx(loss, rel=1e-6)
        for one, other in zip(grads, expected):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@heavy
def test_weights_are_those_of_the_mean_over_examples_that_generate():
    """A modality's loss: the mean by weight, times the mean weight. Where all generate it, the mean of weight * loss,
    which is that of every other model of the package."""
    model, batch = make(), batch_of(4, given=True)
    batch["task"] = np.array([0, 1, 2, 3], "int32")  # word: the examples 0, 1 and 3; picture: 0 and 2
    single = []
    for i in range(4):
        out = model(tensors(keras.tree.map_structure(lambda x, i=i: x[i : i + 1], batch)))
        single.append({name: float(numpy(loss)[0]) for name, loss in losses_of(model, out).items()})
    single = {name: np.array([row[name] for row in single]) for name in single[0]}
    rows = {"picture": [0, 2], "word": [0, 1, 3], "sound": [0, 2]}
    expected = sum(WEIGHT.mean() * np.average(single[name][i], weights=WEIGHT[i]) for name, i in rows.items())
    for weight in (WEIGHT, WEIGHT[:, None]):
        assert float(numpy(weighted(model, batch, weight))) == pytest.approx(expected, rel=1e-5)
    assert float(numpy(weighted(model, batch, np.full(4, 2.0)))) == pytest.approx(2 * loss_of(model, batch), rel=1e-5)
    assert float(numpy(weighted(model, batch, np.zeros(4)))) == 0.0
    batch["task"][:] = 0
    out = model(tensors(batch))
    expected = sum(np.mean(WEIGHT * numpy(loss)) for loss in losses_of(model, out).values())
    assert float(numpy(weighted(model, batch, WEIGHT))) == pytest.approx(expected, rel=1e-5)


@heavy
def test_fit_takes_weights_of_examples():
    """Of arrays, of an ArrayDataset and of a dataset of TensorFlow: (x, y, sample_weight), where y says nothing."""
    model, data = make(), with_absent(ROWS)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=BACKEND != "jax")
    start, weight, y = weights_of(model.trainable_variables), np.tile(WEIGHT, 3), np.zeros(ROWS, "float32")
    found = fitted(model, stream((data, y, weight)), start)
    assert_same_training(found, fitted(model, data, start, y=y, sample_weight=weight, batch_size=BATCH))
    assert_same_training(found, fitted(model, data, start, sample_weight=weight, batch_size=BATCH))
    dataset = ArrayDataset((data, y, weight), batch_size=BATCH, shuffle=False)
    assert_same_training(found, fitted(model, dataset, start))
    plain = fitted(model, stream(data), start)
    assert found[0]["loss"][0] != pytest.approx(plain[0]["loss"][0], rel=1e-2)
    other = keras.tree.map_structure(np.copy, data)
    for name in ("word", "sound"):
        other[name][weight == 0] = 1
    assert_same_training(found, fitted(model, stream((other, y, weight)), start))
