import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import MultimodalDiffusionTransformer, MultimodalDiT, presets
from keras_mmai.data import synthetic_audio

numpy = ops.convert_to_numpy
RANDOM = np.random.default_rng(0)
GRAY = np.full((12, 1, 1, 1), 0.6, "float32") * RANDOM.choice([-1.0, 1.0], (12, 1, 1, 1)).astype("float32")
IMAGES = np.tile(GRAY, (1, 8, 8, 1))
VIDEOS = np.tile(GRAY[:, None], (1, 2, 16, 16, 1)) * np.where(np.arange(16) < 8, 1, -1).astype("float32")[:, None]
SOUNDS = synthetic_audio(6, 640, 8000)["waveforms"]


def trained(name):
    keras.utils.set_random_seed(0)
    if name == "image":
        return presets.image(IMAGES, epochs=12, batch_size=4, verbose=0), IMAGES
    if name == "audio":
        return presets.audio(SOUNDS, 8000, epochs=2, batch_size=3, verbose=0), SOUNDS
    return presets.video(VIDEOS, epochs=20, batch_size=4, verbose=0), VIDEOS


@pytest.mark.parametrize(
    "name, tokens, shape, grid",
    [
        ("image", "latents", (2, 2, 4), (2, 2)),
        ("audio", "codes", (5, 2), (5,)),
        ("video", "latents", (2, 1, 1, 8), (2, 1, 1)),
    ],
)
def test_a_tokenizer_is_trained(name, tokens, shape, grid):
    modality, signals = trained(name)
    assert modality.name == name and modality.tokens == tokens
    assert modality.token_shape == shape and modality.space.grid == grid
    decoded = numpy(modality.tokenizer.decode(modality.encode(signals)))
    assert decoded.shape == signals.shape
    if name == "audio":
        assert modality.sample_rate == 8000 and modality.space.rate == 62.5
        assert modality.tokenizer.standardize.num_updates == 4
    else:
        assert np.mean((decoded - signals) ** 2) < 0.7 * signals.var()


def test_what_is_a_token_can_be_chosen():
    modality = presets.image(IMAGES, "picture", epochs=1, verbose=0, tokens="codes", weight=2.0)
    assert (modality.name, modality.tokens, modality.weight) == ("picture", "codes", 2.0)
    assert presets.video(np.tile(VIDEOS, (1, 1, 2, 2, 1)), epochs=1, verbose=0).space.grid == (2, 1, 1)


def test_texts_and_labels_say_what_there_is():
    word, digit = presets.text(["one", "three", ""], "word"), presets.label([0, 3, 1], adaln=True)
    assert word.name == "word" and word.token_shape == (5,)
    assert word.tokenizer.decode(word.encode(["three", "nor", ""])) == ["three", "nor", ""]
    with pytest.raises(ValueError, match="word"):
        word.encode(["six"])
    assert digit.vocabulary == 4 and digit.adaln


def test_they_are_what_a_model_takes():
    modalities = [trained("image")[0], presets.label(np.arange(12) % 2)]
    network = MultimodalDiT(modalities, hidden_dim=16, num_layers=1, num_heads=2)
    model = MultimodalDiffusionTransformer(modalities, network)
    model.compile("adam")
    model.fit({"image": IMAGES, "label": np.arange(12) % 2}, batch_size=6, verbose=0)
    made = model.generator(num_steps=2).generate({"label": [0, 1]})["image"]
    assert made.shape == (2, 8, 8, 1) and np.isfinite(made).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: presets.image(IMAGES[..., 0]), r"\(n, height, width, channels\)"),
        (lambda: presets.image(IMAGES.tolist()), "list"),
        (lambda: presets.image(IMAGES[:0]), "at least one"),
        (lambda: presets.image(IMAGES[:, :7], verbose=0), "multiple of 4"),
        (lambda: presets.image(7 * IMAGES, verbose=0), r"\[-1, 1\]"),
        (lambda: presets.image(IMAGES, epochs=0), "`epochs`"),
        (lambda: presets.audio(SOUNDS[..., 0], 8000), r"\(n, samples, channels\)"),
        (lambda: presets.video(IMAGES), r"\(n, frames, height, width, channels\)"),
        (lambda: presets.text([""]), "`texts`"),
        (lambda: presets.text([1, 2]), "`texts`"),
        (lambda: presets.label([0.5]), "`labels`"),
        (lambda: presets.label([-1]), "`labels`"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
