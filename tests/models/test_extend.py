"""What goes on beyond the window, block by block."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, awake, batch_of, make

from keras_mmai import VQVAE, Modality, MultimodalDiffusionTransformer, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import MaskedAncestral
from keras_mmai.layers import VectorQuantizer
from keras_mmai.noise import row_seeds, split
from keras_mmai.tokenizers import ByteTokenizer, CharacterTokenizer, LabelTokenizer, PassThrough


def generator_of(*modalities):
    return MultimodalGenerator(awake(MultimodalDiT(modalities, **SMALL)), modalities, num_steps=3)


@pytest.fixture(scope="module")
def generator():
    return make().generator(num_steps=3)


def block_seeds(seed, rows, block):
    return ops.convert_to_numpy(split(row_seeds(seed, rows), block + 1)[:, block])


def test_each_block_is_what_is_generated_after_the_last_tokens(generator):
    sound, word = (batch_of(5)[name] for name in ("sound", "word"))
    start = sound.copy()
    longer = generator.extend({"sound": sound}, 3, given={"word": word}, guidance=2.0, seed=4)["sound"]
    assert longer.shape == (5, 4 + 3 * 2, 2) and longer.dtype == np.int32
    np.testing.assert_array_equal(longer[:, :4], start)
    for block in range(3):
        end = 4 + 2 * block
        window = np.concatenate([longer[:, end - 2 : end], np.zeros((5, 2, 2), "int32")], axis=1)
        given, known = {"sound": window, "word": word}, {"sound": np.arange(4) < 2}
        seeds = block_seeds(4, 5, block)
        expected = generator.generate(given, ["sound"], known, guidance=2.0, seed=seeds)["sound"]
        np.testing.assert_array_equal(longer[:, end : end + 2], expected[:, 2:])
    shorter = generator.extend({"sound": sound}, 1, given={"word": word}, guidance=2.0, seed=4)["sound"]
    np.testing.assert_array_equal(shorter, longer[:, :6])


def test_a_row_depends_on_its_seed_and_its_start_alone(generator):
    sound = batch_of(5)["sound"]
    longer = generator.extend({"sound": sound}, 3, overlap=1, seed=3)["sound"]
    assert longer.shape == (5, 4 + 3 * 3, 2)
    seeds = np.array([[3, 4], [3, 1]], "int32")
    part = generator.extend({"sound": sound[[4, 1]]}, 3, overlap=1, seed=seeds, batch_size=1)["sound"]
    np.testing.assert_array_equal(part, longer[[4, 1]])
    assert (generator.extend({"sound": sound}, 3, overlap=1, seed=2)["sound"] != longer).any()
    same = np.zeros((5, 4, 2), "int32")
    blocks = generator.extend({"sound": same}, 2, overlap=1)["sound"][:, 4:].reshape(5, 2, 3, 2)
    assert (blocks[0] != blocks[1]).any() and (blocks[:, 0] != blocks[:, 1]).any()


def test_latents_in_patches_go_on():
    generator = generator_of(Modality("x", PassThrough((8, 3)), patch_size=2), Modality("y", LabelTokenizer(4)))
    start = np.random.RandomState(0).normal(size=(3, 8, 3)).astype("float32")
    longer = generator.extend({"x": start}, 2, overlap=1, steps=2)["x"]
    assert longer.shape == (3, 8 + 2 * 6, 3) and longer.dtype == np.float32
    np.testing.assert_array_equal(longer[:, :8], start)
    window = np.concatenate([longer[:, 12:14], np.zeros((3, 6, 3), "float32")], axis=1)
    known, seeds = {"x": np.arange(4) < 1}, block_seeds(0, 3, 1)
    expected = generator.generate({"x": window}, ["x"], known, steps=2, seed=seeds)["x"]
    np.testing.assert_allclose(longer[:, 14:], expected[:, 2:], atol=1e-5)


def test_videos_of_latents_go_on():
    generator = generator_of(Modality("x", PassThrough((4, 2, 2, 3))))
    start = np.random.RandomState(0).normal(size=(2, 4, 2, 2, 3)).astype("float32")
    longer = generator.extend({"x": start}, 2, overlap=3)["x"]
    assert longer.shape == (2, 6, 2, 2, 3) and np.isfinite(longer).all()
    np.testing.assert_array_equal(longer[:, :4], start)


def test_texts_shorter_than_a_window_are_filled_up_first():
    generator = generator_of(Modality("text", CharacterTokenizer(6, "abc")))
    longer = generator.extend({"text": ["abcabc", "ab", "", "abca"]}, 2)["text"]
    tokenizer = generator.modality("text").tokenizer
    known = np.arange(6) < np.array([[3], [2], [0], [3]])
    tails = {"text": tokenizer.encode(["abc", "ab", "", "bca"])}
    first = generator.generate(tails, ["text"], {"text": known}, seed=block_seeds(0, 4, 0))["text"]
    for start, tail, made, text in zip(["abcabc", "ab", "", "abca"], [3, 2, 0, 3], first, longer):
        assert text.startswith(start + made[tail:])


def test_a_character_over_an_edge_is_whole():
    """Of two bytes, one of each block: the text is decoded as a whole."""
    first, second = ByteTokenizer(2).encode(["é"])[0]

    class Alternating(MultimodalDiT):
        """Says that the second byte of "é" comes after the first, and the first after all others."""

        def call(self, tokens, t, present=None, known=None, training=False):
            after = ops.where(tokens["text"][:, :1] == first, second, first)
            return {"text": 50.0 * ops.one_hot(ops.repeat(after, 2, axis=1), 257)}

    modalities = [Modality("text", ByteTokenizer(2))]
    generator = MultimodalGenerator(Alternating(modalities, **SMALL), modalities, num_steps=2)
    assert generator.extend({"text": ["é", "a"]}, 4) == {"text": ["ééé", "aéé"]}


def test_a_period_goes_on_over_the_edges(numpy_initializers):
    text = "abcde" * 20
    modalities = [Modality("text", CharacterTokenizer(8, "abcde"))]
    network = MultimodalDiT(modalities, hidden_dim=32, num_layers=1, num_heads=2)
    model = MultimodalDiffusionTransformer(modalities, network, seed=0, ema_decays=())
    model.compile(keras.optimizers.Adam(1e-2))
    windows = {"text": [text[i : i + 8] for i in range(60)], "known": {"text": np.tile(np.arange(8) < 4, (60, 1))}}
    model.fit(model.precompute(windows, verbose=0), batch_size=60, epochs=80, verbose=0)
    generator = model.generator({"text": MaskedAncestral(temperature=0.1)}, num_steps=8)
    assert generator.extend({"text": windows["text"][:5]}, 5)["text"] == [text[i : i + 28] for i in range(5)]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"start": batch_of(2)["sound"]}, "`start` is a dict"),
        ({"start": {"smell": batch_of(2)["sound"]}}, "smell"),
        ({"start": {}}, "one modality"),
        ({"start": {name: batch_of(2)[name] for name in ("sound", "word")}}, "one modality"),
        ({"given": batch_of(2)["sound"]}, "`given` is a dict"),
        ({"given": {"sound": batch_of(2)["sound"]}}, "not given"),
        ({"given": {"word": batch_of(3)["word"]}}, "rows"),
        ({"start": {"sound": batch_of(2)["sound"][:, :3]}}, r"\('b', 4, 2\)"),
        ({"start": {"picture": batch_of(2)["picture"]}}, "does not go on in time"),
        ({"num_blocks": 0}, "`num_blocks` is an int of at least 1"),
        ({"num_blocks": 1.5}, "1.5"),
        ({"num_blocks": True}, "True"),
        ({"overlap": 0}, "`overlap` is an int from 1 to 3. Received: 0"),
        ({"overlap": 4}, "Received: 4"),
        ({"steps": 0}, "steps"),
        ({"seed": None}, "seed"),
        ({"guidance": {"word": 2.0}}, "absent"),
    ],
)
def test_what_is_refused(generator, options, words):
    with pytest.raises(ValueError, match=words):
        generator.extend(**{"start": {"sound": batch_of(2)["sound"]}, "num_blocks": 1, **options})


def test_what_has_one_length_is_refused():
    tokenizer = VQVAE((8, 8, 1), filters=(4, 4), quantizer=VectorQuantizer(8, 4))
    generator = generator_of(
        Modality("image", tokenizer), Modality("label", LabelTokenizer(3)), Modality("id", PassThrough((1,), 3))
    )
    with pytest.raises(ValueError, match="signals of one length: `start` is of texts, or of a `PassThrough`"):
        generator.extend({"image": np.zeros((1, 8, 8, 1), "float32")}, 1)
    with pytest.raises(ValueError, match=r"'label'.* one length"):
        generator.extend({"label": [0]}, 1)
    with pytest.raises(ValueError, match=r"in time: its tokens lie on a grid of \(1,\)"):
        generator.extend({"id": np.zeros((1, 1), "int32")}, 1)
