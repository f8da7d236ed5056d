"""Signals in and signals out, saved, loaded and served."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, awake, batch_of, make
from small_models import heavy, make_vqvae, signals

from keras_mmai import VAE, VQVAE, Modality, MultimodalDiffusionTransformer, MultimodalDiT, MultimodalGenerator
from keras_mmai.layers import ResidualQuantizer, VectorQuantizer
from keras_mmai.noise import row_seeds
from keras_mmai.tokenizers import ByteTokenizer, CharacterTokenizer, LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


@heavy
def test_averages_and_saving(tmp_path, given):
    model = make(ema_decays=(0.9,))
    model.compile("adam", run_eagerly=True)
    model.fit(batch_of(8), batch_size=4, epochs=2, verbose=0)
    generator = model.generator(num_steps=3, guidance={"word": 2.0})
    out = generator.generate(given)
    model.save(tmp_path / "model.keras")
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for other in (
        loaded.generator(num_steps=3, guidance={"word": 2.0}),
        keras.saving.load_model(tmp_path / "generator.keras"),
    ):
        again = other.generate(given)
        for name in out:
            np.testing.assert_allclose(again[name], out[name], atol=1e-5)
    model.assign_averages()
    average = dict(zip([v.path for v in model.network.weights], model.network.weights))
    for weight, value in zip(generator.network.weights, average.values()):
        np.testing.assert_allclose(numpy(weight), numpy(value), atol=1e-6)


@heavy
def test_two_modalities_share_a_tokenizer(tmp_path):
    """Its weights, or its alphabet, are saved once, and it is shared again when it is loaded."""
    eye, text = make_vqvae(), CharacterTokenizer(4).fit(["ab", "c"])
    mods = [Modality("left", eye), Modality("right", eye), Modality("question", text), Modality("answer", text)]
    model = MultimodalDiffusionTransformer(mods, awake(MultimodalDiT(mods, **SMALL)), ema_decays=(), seed=0)
    given = {"left": signals(3), "question": ["ab", "c", ""]}
    whole = model.generator(num_steps=2)
    out = whole.generate(given)
    model.save(tmp_path / "model.keras")
    whole.save(tmp_path / "generator.keras")
    loaded = [keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("model", "generator")]
    for again in (loaded[0].generator(num_steps=2), loaded[1]):
        left, right, question, answer = (m.tokenizer for m in again.modalities)
        assert left is right and question is answer and question.characters == text.characters
        found = again.generate(given)
        np.testing.assert_allclose(found["right"], out["right"], atol=1e-5)
        assert found["answer"] == out["answer"]


def test_tokens_of_a_tokenizer_are_given_as_it_gives_them():
    """Tensors, and not encoded again."""
    for kind in ("codes", "latents"):
        mods = tokenized(kind)
        generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
        x = signals(2)
        tokens = mods[0].tokenizer.encode(ops.convert_to_tensor(x), tokens=kind)
        assert generator.generate({"image": tokens}, ["text"]) == generator.generate({"image": x}, ["text"])


def test_a_trajectory_is_of_levels_of_different_vocabularies():
    """Of which the network has the largest: what is too high for a level is decoded as `generate` does."""
    quantizer = ResidualQuantizer([VectorQuantizer(8, 4, seed=0), VectorQuantizer(2, 4, seed=0)])
    image = Modality("image", VQVAE((8, 8, 1), filters=(4, 4), quantizer=quantizer), "codes")
    generator = MultimodalGenerator(awake(MultimodalDiT([image], **SMALL)), [image], num_steps=3)
    found = generator.trajectory(num_samples=4, seed=0)["image"]
    np.testing.assert_allclose(found[-1], generator.generate(num_samples=4, seed=0)["image"], atol=1e-5)


TEXT_AND_X = {"to_text": (("x",), ("text",)), "to_x": (("text",), ("x",))}


def tokenized(kind):
    """Modalities with trained tokenizers: an image by codes or latents, and a text."""
    sizes = dict(filters=(8,), num_residual_layers=1, residual_filters=8)
    if kind == "codes":
        image = Modality("image", VQVAE((8, 8, 1), quantizer=VectorQuantizer(16, 4, seed=0), **sizes))
    else:
        image = Modality("image", VAE((8, 8, 1), latent_dim=2, seed=0, **sizes), patch_size=2)
    return [image, Modality("text", ByteTokenizer(4)), Modality("label", LabelTokenizer(["a", "b"]))]


@heavy
@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_signals_in_and_signals_out(kind):
    mods = tokenized(kind)
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=3)
    out = generator.generate({"text": ["one", "two"]})
    assert out["image"].shape == (2, 8, 8, 1) and np.abs(out["image"]).max() <= 1 and set(out["label"]) <= {"a", "b"}
    back = generator.generate({"image": out["image"], "label": out["label"]})
    assert len(back["text"]) == 2 and all(isinstance(text, str) for text in back["text"])


def test_a_learned_alphabet_is_loaded(tmp_path):
    text = CharacterTokenizer(3).fit(["abc", "bad"])
    mods = [Modality("text", text), Modality("x", PassThrough((4, 2)))]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
    generator.save(tmp_path / "generator.keras")
    again = keras.saving.load_model(tmp_path / "generator.keras")
    x = np.ones((3, 4, 2), "float32")
    assert again.generate({"x": x})["text"] == generator.generate({"x": x})["text"]
    with pytest.raises(ValueError, match="learned nothing"):
        Modality("text", CharacterTokenizer(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_a_saved_model_has_a_signature_for_each_task(kind, tmp_path):
    mods = tokenized(kind)
    tasks = {
        "text_to_image": (("text",), ("image",)),
        "image_to_rest": (("image",), ("text", "label")),
        "all": ((), ("image", "text", "label")),
    }
    network = awake(MultimodalDiT(mods, **SMALL))
    generator = MultimodalGenerator(network, mods, tasks, num_steps=3, guidance={"text": 2.0})
    path = generator.export(tmp_path / "served", verbose=False)
    import tensorflow as tf

    served = tf.saved_model.load(str(path)).signatures
    assert set(served) == {*tasks, "serving_default"}
    seeds = numpy(row_seeds(0, 2))
    image = served["text_to_image"](seed=tf.constant(seeds), text=tf.constant(["one", "two"]))["image"].numpy()
    ours = generator.generate({"text": ["one", "two"]}, want=["image"])["image"]
    np.testing.assert_allclose(image, ours, atol=1e-4)
    rest = served["image_to_rest"](seed=tf.constant(seeds), image=tf.constant(ours))
    again = generator.generate({"image": ours})
    assert [text.decode("utf-8", "replace") for text in rest["text"].numpy()] == again["text"]
    assert ["ab"[i] for i in rest["label"].numpy()] == list(again["label"])


def test_decode_gives_signals():
    mods = tokenized("codes")
    generator = MultimodalGenerator(MultimodalDiT(mods, **SMALL), mods)
    codes, texts = np.zeros((2, 4, 4), "int32"), mods[1].encode(["ab", "c"])
    out = generator.decode({"image": codes, "text": texts})
    np.testing.assert_allclose(out["image"], numpy(mods[0].tokenizer.decode(codes)), atol=1e-6)
    assert out["text"] == ["ab", "c"]


@pytest.mark.slow
def test_a_text_that_tensorflow_can_not_run_is_served_as_ids(tmp_path):
    mods = [Modality("text", CharacterTokenizer(3, "abc")), Modality("x", PassThrough((4, 2)))]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, TEXT_AND_X, num_steps=2)
    path = generator.export(tmp_path / "served", verbose=False)
    import tensorflow as tf

    served = tf.saved_model.load(str(path)).signatures
    seeds, x = tf.constant(numpy(row_seeds(0, 2))), np.ones((2, 4, 2), "float32")
    ids = served["to_text"](seed=seeds, x=tf.constant(x))["text"].numpy()
    assert mods[0].tokenizer.decode(ids) == generator.generate({"x": x})["text"]
    answer = served["to_x"](seed=seeds, text=tf.constant(mods[0].encode(["ab", "c"])))["x"].numpy()
    np.testing.assert_allclose(answer, generator.generate({"text": ["ab", "c"]})["x"], atol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids must be in"):
        served["to_x"](seed=seeds, text=tf.constant([[9, 0, 0], [1, 2, 3]]))


def test_tokenizers_encode_as_many_signals_at_once_as_is_asked(monkeypatch):
    mods = tokenized("latents")
    generator, sizes = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods), []
    encoder = type(mods[0]._encoder)
    predict = encoder.predict

    def spy(self, x, batch_size=None, **kwargs):
        sizes.append(batch_size)
        return predict(self, x, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(encoder, "predict", spy)
    generator.embed({"image": np.zeros((5, 8, 8, 1), "float32")}, batch_size=2)
    generator.losses({"image": np.zeros((5, 8, 8, 1), "float32")}, 0.5, batch_size=3)
    assert sizes == [2, 3]


def test_a_level_of_residual_codes_may_be_left_out_of_what_is_decoded():
    levels = ResidualQuantizer([VectorQuantizer(16, 4, seed=0), VectorQuantizer(16, 4, seed=1)])
    image = Modality("image", VQVAE((8, 8, 1), filters=(8,), quantizer=levels))
    generator = MultimodalGenerator(awake(MultimodalDiT([image], **SMALL)), [image])
    codes = np.random.RandomState(0).randint(0, 16, (2, *image.token_shape)).astype("int32")
    codes[..., 1] = -1
    x = generator.decode({"image": codes})["image"]
    np.testing.assert_allclose(x, numpy(image.tokenizer.decode(codes)), atol=1e-5)
    with pytest.raises(ValueError, match=r"has codes in -1\.\.15 there"):
        generator.decode({"image": codes + 17})


def test_only_what_says_that_it_cannot_be_served_goes_as_tokens():
    class Readings(PassThrough):
        def serving_signatures(self):
            raise ValueError("the table of units is gone")

    text = Modality("word", CharacterTokenizer(3, "abc"))
    assert text.serving("decode")[1] == ((3,), "int32")
    with pytest.raises(ValueError, match="the table of units is gone"):
        Modality("x", Readings((3, 2))).serving("decode")
