"""Signals and tokens of several modalities that are trained, and what of them is absent."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, awake, batch_of, losses_of, make, tensors
from small_models import BACKEND, heavy, make_vqvae, signals

from keras_mmai import VQVAE, Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.data import ArrayDataset, mix
from keras_mmai.diffusion import (
    MaskedDiffusion,
)
from keras_mmai.layers import VectorQuantizer
from keras_mmai.models.modality import Tokens
from keras_mmai.tokenizers import CharacterTokenizer, LabelTokenizer, LosslessTokenizer, PassThrough

numpy = ops.convert_to_numpy


def step_loss(model, batch):
    """What a training step takes the gradient of."""
    return model.compute_loss(x=batch, y_pred=model(tensors(batch), training=True))


class Shifted(LosslessTokenizer):
    def __init__(self, token_shape):
        super().__init__(token_shape)
        self.latent_shape = self.token_shape

    def encode(self, x):
        return np.asarray(x, "float32") - 100.0

    def decode(self, tokens):
        return np.asarray(tokens) + 100.0


def test_absent_nan_reaches_no_gradient(gradients):
    model = make()
    batch = {**batch_of(4, given=True), "task": np.zeros(4, "int32")}
    batch["present"] = {"picture": np.array([True, False, True, True])}
    batch["picture"][1] = np.nan

    def loss():
        return sum(ops.mean(x) for x in losses_of(model, model(tensors(batch), training=True)).values())

    value, found = gradients(loss, (), model.trainable_variables)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in found)


def test_a_signal_of_ones_own_may_look_like_tokens():
    """Readings are encoded once: not left as they are, and not twice."""
    mods = [Modality("readings", Shifted((4, 2)))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    x = (100.0 + np.random.RandomState(0).normal(size=(3, 4, 2))).astype("float32")
    tokens = model.precompute({"readings": x})
    for again in (tokens, mix([(tokens, 1.0), (tokens, 1.0)]), {"readings": tokens["readings"][:2]}):
        assert np.abs(model.precompute(again)["readings"]).max() < 5
    np.testing.assert_allclose(model.generator().decode(tokens)["readings"], x, rtol=1e-5)


def test_what_is_absent_may_hold_anything():
    """NaN, a label of -1, no text: what "present" says is absent is not looked at, in `fit` or when it is given."""
    mods = [
        Modality("readings", PassThrough((4, 2))),
        Modality("word", CharacterTokenizer(3, "abc")),
        Modality("label", LabelTokenizer(3)),
    ]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    x = np.random.RandomState(0).normal(size=(4, 4, 2)).astype("float32")
    here, cells = np.array([True, False, True, True]), np.random.RandomState(1).rand(4, 4) < 0.5
    x[~cells] = np.nan
    data = {"readings": x, "word": ["ab", None, "c", "abc"], "label": np.where(here, 1, -1)}
    data["present"] = {"readings": cells, "word": here.tolist(), "label": here}
    tokens = model.precompute(data)
    np.testing.assert_array_equal(tokens["readings"], np.where(cells[..., None], x, 0))
    np.testing.assert_array_equal(tokens["label"][:, 0], [1, 0, 1, 1])
    np.testing.assert_array_equal(tokens["word"][[0, 2, 3]], mods[1].encode(["ab", "c", "abc"]))
    model.compile("adam", jit_compile=False)
    losses = [model.fit(d, batch_size=4, verbose=0).history["loss"][0] for d in (data, tokens)]
    assert np.isfinite(losses).all()
    model = MultimodalDiffusionTransformer(mods, awake(MultimodalDiT(mods, **SMALL)), seed=0)
    generator, present = model.generator(num_steps=1), {"readings": cells}
    clean, other = (np.where(cells[..., None], x, value).astype("float32") for value in (7.0, -3.0))
    found = [generator.classify({"readings": y}, "label", present) for y in (x, clean, other)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - generator.classify({"readings": clean}, "label")).max() > 1e-4
    batches = ArrayDataset({**tokens, "readings": x, "label": data["label"]}, batch_size=4)
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.fit(batches, verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match="'readings' must be finite"):
        model.precompute({"readings": x})
    with pytest.raises(ValueError, match="'present' of 'word' needs a row for each of 4"):
        mods[1].encode(["a"] * 4, present=np.ones(3, bool))


class Centred(LosslessTokenizer):
    """Signals of the form of their tokens, each less its mean."""

    vocabulary = None
    latent_shape = (4, 1)

    def __init__(self):
        super().__init__((4, 1))

    def encode(self, x):
        return np.asarray(x, "float32") - np.mean(x, axis=(1, 2), keepdims=True, dtype="float32")

    def decode(self, tokens):
        assert type(tokens) is np.ndarray
        return tokens + 100.0


def test_rows_are_taken_by_their_place():
    """Of what answers an index by labels of its own, as a Series of pandas does, too."""

    class Labelled(list):
        def __getitem__(self, label):
            return super().__getitem__(len(self) - 1 - label)

    modality, here = Modality("word", CharacterTokenizer(2, "abc")), np.array([True, False, True])
    found = modality.encode(Labelled(["ab", "c", "ca"]), present=here)
    np.testing.assert_array_equal(found, modality.encode(["ab", "c", "ca"], present=here))


def test_signals_that_look_like_tokens_are_whole_where_parts_are_absent():
    modality = Modality("readings", Centred())
    x = np.float32([1, 2, 3, 10]).reshape(1, 4, 1)
    tokens = modality.encode(x)
    np.testing.assert_array_equal(tokens.reshape(-1), [-3, -2, -1, 6])
    part = modality.encode(x, present=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(part.reshape(-1), [-3, -2, -1, 0])
    assert isinstance(tokens[:1], Tokens)
    for computed in (tokens + 1, np.add(1, tokens), tokens.mean(axis=0), tokens.sum()):
        assert not isinstance(computed, Tokens)
    generator = MultimodalDiffusionTransformer([modality], MultimodalDiT([modality], **SMALL)).generator()
    np.testing.assert_array_equal(generator.decode({"readings": tokens})["readings"], np.asarray(tokens) + 100)


def test_columns_of_another_number_of_rows_are_refused():
    model = make()
    data, flags = batch_of(4), {"picture": np.ones((3, 2, 2), bool), "word": np.ones((4, 3), bool)}
    with pytest.raises(ValueError, match="'known' of picture\": 3"):
        model.precompute({**data, "known": flags})
    with pytest.raises(ValueError, match="'present' of 'word' is bool"):
        model.precompute({**data, "present": {"word": [True, None, True, True]}})
    assert model.precompute({**data, "task": [0, 1, 2, 0]})["task"].shape == (4,)


def test_warnings_of_what_would_train_badly():
    mods = [Modality("readings", PassThrough((4, 2)))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    with pytest.warns(UserWarning, match="'readings' should have a mean of about 0 .* Received: 50 and 0"):
        model.precompute({"readings": np.full((2, 4, 2), 50.0, "float32")})
    few = np.random.RandomState(0).normal(size=(100, 4, 2)).astype("float32")
    with warnings.catch_warnings():  # what is absent does not count
        warnings.simplefilter("error", UserWarning)
        model.precompute({"readings": few, "present": {"readings": np.arange(100) < 1}})
    tokenizer = VQVAE((8, 8, 1), filters=(4,), quantizer=VectorQuantizer(8, 2))
    mods = [Modality("image", tokenizer)]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    with pytest.warns(UserWarning, match="The tokenizer of 'image' was never trained"):
        model.precompute({"image": np.zeros((2, 8, 8, 1), "float32")})


def test_missing_modalities(gradients):
    """A modality that a row lacks has no loss, and what it holds changes nothing; where nothing wanted is left, the
    row learns what it has. To train on such rows is to train each modality on the rows that have it."""
    model = make(independent_times=0.0)
    batch = batch_of(6, given=True)
    batch["task"] = np.full(6, list(TASKS).index("picture_to_word"), "int32")
    batch["present"] = {"word": np.arange(6) < 3, "sound": np.zeros(6, bool)}
    out = model(tensors(batch))
    assert numpy(out["word"]["wanted"]).all(axis=1).tolist() == [True] * 3 + [False] * 3
    assert numpy(out["picture"]["wanted"]).all(axis=1).tolist() == [False] * 3 + [True] * 3
    other = {**batch, "word": batch["word"].copy(), "sound": (batch["sound"] + 1) % 5}
    other["word"][3:] = 0
    changed = model(tensors(other))
    for name in ("word", "picture"):
        losses = [numpy(losses_of(model, x)[name]) for x in (out, changed)]
        np.testing.assert_array_equal(*losses)
        # the mean over the batch is that over the rows that generate it
        rows = [0, 1, 2] if name == "word" else [3, 4, 5]
        subset = keras.tree.map_structure(lambda x, rows=rows: x[rows], batch)
        alone = numpy(losses_of(model, model(tensors(subset)))[name])
        np.testing.assert_allclose(losses[0].mean(), alone.mean(), rtol=1e-5)
    halves = [keras.tree.map_structure(lambda x, half=half: x[half], batch) for half in (slice(3), slice(3, 6))]
    whole, *parts = (
        gradients(lambda b=b: ops.mean(step_loss(model, b)), (), model.trainable_variables)[1] for b in (batch, *halves)
    )
    assert max(np.abs(gradient).max() for gradient in whole) > 1e-2
    for gradient, one, other in zip(whole, *parts):
        np.testing.assert_allclose(gradient, one + other, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_modality_is_one_where_it_is_absent(gradients):
    model = make()
    batch = {**batch_of(4, given=True), "task": np.full(4, list(TASKS).index("all"), "int32")}
    absent = {**batch, "present": {"sound": np.zeros(4, bool)}}
    out = model(tensors(absent))
    del batch["sound"]
    left_out = model(tensors(batch))
    assert "sound" not in left_out
    for name in left_out:
        np.testing.assert_allclose(numpy(left_out[name]["output"]), numpy(out[name]["output"]), rtol=1e-5, atol=1e-6)
    found = [gradients(lambda b=b: step_loss(model, b), (), model.trainable_variables)[1] for b in (absent, batch)]
    for one, other in zip(*found):  # what belongs to sound alone has no gradient, or one of 0
        np.testing.assert_allclose(one, np.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-6)


def test_an_example_without_anything_changes_nothing(gradients):
    model = make()
    batch = {**batch_of(3, given=True), "task": np.zeros(3, "int32")}
    batch["present"] = {name: np.array([True, False, True]) for name in ("picture", "word", "sound")}
    full = keras.tree.map_structure(lambda x: x[[0, 2]], batch)

    def loss(batch):
        return lambda: sum(ops.mean(x) for x in losses_of(model, model(tensors(batch), training=True)).values())

    (one, by_all), (other, by_two) = (gradients(loss(b), (), model.trainable_variables) for b in (batch, full))
    assert one == pytest.approx(other, rel=1e-5)
    for a, b in zip(by_all, by_two):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_padding_of_a_text_has_no_loss():
    model = make()
    batch = {**batch_of(4, given=True), "task": np.full(4, list(TASKS).index("all"), "int32")}
    here = np.arange(3) < np.array([[3], [2], [1], [2]])
    batch["present"] = {"word": here}
    out = model(tensors(batch))["word"]
    losses = numpy(MaskedDiffusion(6).token_losses(out["output"], out["target"], out["t"])) * here
    expected = losses.sum(1) / here.sum(1)
    np.testing.assert_allclose(numpy(losses_of(model, {"word": out})["word"]), expected, rtol=1e-5)


@heavy
def test_fit_takes_signals_and_computes_their_tokens_once(monkeypatch, capsys):
    """Before the first step: neither a step nor an epoch nor a validation encodes."""
    tokenizer, encoded, before = make_vqvae(), [], []
    encode = tokenizer.encode
    precomputed, precompute = [], MultimodalDiffusionTransformer.precompute
    monkeypatch.setattr(
        MultimodalDiffusionTransformer,
        "precompute",
        lambda model, x, **kwargs: precomputed.append(x) or precompute(model, x, **kwargs),
    )
    monkeypatch.setattr(tokenizer, "encode", lambda x, **kwargs: encoded.append(x) or encode(x, **kwargs))
    mods = [Modality("image", tokenizer), Modality("name", LabelTokenizer(["zero", "one", "two"]))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    model.compile("adam", run_eagerly=BACKEND != "jax")
    data = {"image": signals(6), "name": ["one", "two", "zero"] * 2}

    def look(*_, **__):
        before.append(len(encoded))

    watch = keras.callbacks.LambdaCallback(on_train_batch_begin=look, on_epoch_end=look, on_train_end=look)
    watch.on_test_batch_begin = look
    fitted = model.fit(data, batch_size=3, epochs=3, verbose=0, validation_data=data, callbacks=[watch])
    assert set(fitted.history) >= {"image", "name", "val_image", "val_name"}
    assert len(before) == 3 * (2 + 2 + 1) + 1 and len(set(before)) == 1 and before[0] > 0
    assert len(precomputed) == 2  # what is fitted and what it is validated by
    tokens = model.precompute(data, verbose=0)
    np.testing.assert_array_equal(tokens["image"], numpy(encode(data["image"])))
    np.testing.assert_array_equal(tokens["name"][:, 0], [1, 2, 0, 1, 2, 0])
    assert capsys.readouterr().out == ""
    model.precompute(data, verbose=1)
    assert "1/1" in capsys.readouterr().out
