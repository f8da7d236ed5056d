"""The contract of every sort of modality. A new one needs an entry in EXAMPLES, and nothing else."""

import functools
import math
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, awake
from small_models import BACKEND, SIZES

from keras_mmai import VAE, VQVAE, Modality, MultimodalDiT, MultimodalGenerator, tokenizers
from keras_mmai.layers import (
    ConvDecoder,
    ConvEncoder,
    Framewise,
    ResidualQuantizer,
    SEANetDecoder,
    SEANetEncoder,
    VectorQuantizer,
)
from keras_mmai.models.modality import Tokens
from keras_mmai.serialization import register
from keras_mmai.tokenizers import (
    VQVAE2,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    LabelTokenizer,
    LosslessTokenizer,
    PassThrough,
    Tokenizer,
)
from keras_mmai.training import freeze

ROWS = 4


@register
class Degrees(LosslessTokenizer):
    """A user's own: three temperatures (b, 3) to latents (b, 3, 1), and back."""

    def __init__(self, unit, **kwargs):
        super().__init__((3, 1), **kwargs)
        self.unit, self.latent_shape = unit, self.token_shape

    def encode(self, x):
        if np.shape(x)[1:] != (3,):
            raise ValueError(f"Three temperatures. Received: shape {np.shape(x)}")
        return (np.asarray(x) / self.unit).astype("float32")[..., None]

    def decode(self, latents):
        return np.asarray(latents)[..., 0] * self.unit


def test_a_rate_of_samples_is_no_rate_of_the_tokens_of_a_users_own():
    class Recorded(Degrees):
        sample_rate = 8

    modality = Modality("x", Recorded(10.0))
    assert modality.space.rate is None and modality.sample_rate == 8
    with pytest.raises(ValueError, match="16"):
        modality.encode(np.zeros((2, 3)), sample_rate=16)


def trained(tokenizer):
    """Codes and statistics of it that let the codes of noise differ, and the latents."""
    random = np.random.RandomState(0)
    for variable in tokenizer.weights:
        if variable.path.endswith("embeddings"):
            variable.assign(random.normal(size=variable.shape) * 0.5)
    for value, variable in zip((0.1, 0.5, 1.0), tokenizer.standardize.weights):
        variable.assign(np.full(variable.shape, value))
    return tokenizer


def noise_of(*shape):
    return np.random.RandomState(1).uniform(-1, 1, (ROWS, *shape)).astype("float32")


def codes():
    return VectorQuantizer(8, 4)


def vqvae(shape, quantizer, **kwargs):
    return trained(VQVAE(shape, quantizer=quantizer, **SIZES, **kwargs))


def vae(shape, **kwargs):
    return trained(VAE(shape, latent_dim=2, **SIZES, **kwargs))


def framewise():
    """Coders of a video."""
    encoder, decoder = (Framewise(kind((8,), dim, 1, 8)) for kind, dim in ((ConvEncoder, 4), (ConvDecoder, 1)))
    return dict(encoder=encoder, decoder=decoder, causal=True, sample_rate=8)


def codec():
    """Of waveforms, on their spectra."""
    sizes = dict(strides=(2,), patch_size=4, fourier=True)
    return trained(
        VQVAE(
            (16, 1),
            encoder=SEANetEncoder(4, 4, **sizes),
            decoder=SEANetDecoder(4, 1, **sizes),
            quantizer=ResidualQuantizer([codes(), codes()]),
            sample_rate=8,
        )
    )


def two_levels():
    return trained(VQVAE2((8, 8, 1), filters=4, residual_filters=4, top=codes(), bottom=codes()))


class Example(NamedTuple):
    tokenizer: object  # a function
    signals: object
    token_shape: tuple
    grid: tuple  # of the transformer's tokens
    channels: int  # numbers that it says of one
    options: dict = {}  # of the modality
    num_codes: int = 1  # ids of one token
    rate: object = None
    wrong: object = None  # what are no such signals; None: those of `wrong_floats`


IMAGE, AUDIO, VIDEO, READINGS = noise_of(8, 8, 1), noise_of(16, 1), noise_of(2, 8, 8, 1), 20 + 5 * noise_of(3)
WORDS, NAMES = ["cab", "", "b", "abba"], ["dog", "cat", "dog", "dog"]
LABELS, IDS = np.array([2, 0, 1, 2], "int32"), np.arange(24, dtype="int32").reshape(4, 3, 2) % 5
WRONG_WORDS = [["cat"], ["abbac"], ["ab", None], "ab", IDS]
WRONG_PAIRS = [["\u00e9cabb"], *WRONG_WORDS[2:]]  # one pair is learned
NO_READINGS = [READINGS[:, 1:], READINGS[0], "ab", np.full((ROWS, 3), np.nan)]
WRONG_NAMES = [["cow"], [2], [-1], [None], [0.5], [["cat"]], "cat"]

# "latents" or "codes" in the name is the kind of tokens
EXAMPLES = {
    "image_latents": Example(lambda: vqvae((8, 8, 1), codes()), IMAGE, (4, 4, 4), (2, 2), 16, dict(patch_size=2)),
    "image_codes": Example(lambda: vqvae((8, 8, 1), codes()), IMAGE, (4, 4), (4, 4), 8),
    "audio_latents": Example(
        lambda: vae((16, 1), sample_rate=8), AUDIO, (8, 2), (4,), 4, dict(patch_size=2, weight=2.0), rate=2.0
    ),
    "audio_codes": Example(
        lambda: vqvae((16, 1), ResidualQuantizer([codes(), codes()]), sample_rate=8),
        *(AUDIO, (8, 2), (8,), 16),
        num_codes=2,
        rate=4.0,
    ),
    "codec_codes": Example(codec, AUDIO, (2, 2), (2,), 16, num_codes=2, rate=1.0),
    "levels_codes": Example(two_levels, IMAGE, (5,), (5,), 8),
    "levels_latents": Example(two_levels, IMAGE, (5, 4), (5,), 4),
    "video_latents": Example(
        lambda: vae((2, 8, 8, 1), **framewise()),
        *(VIDEO, (2, 4, 4, 2), (2, 2, 2), 8),
        dict(patch_size=(1, 2, 2)),
        rate=8.0,
    ),
    "video_codes": Example(
        lambda: vqvae((2, 8, 8, 1), codes(), **framewise()),
        *(VIDEO, (2, 4, 4), (2, 4, 4), 8),
        rate=8.0,
    ),
    "text": Example(lambda: CharacterTokenizer(4).fit(["cab"]), WORDS, (4,), (4,), 4, wrong=WRONG_WORDS),
    "bytes": Example(lambda: ByteTokenizer(4), WORDS, (4,), (4,), 257, wrong=WRONG_WORDS[1:]),
    "pairs": Example(lambda: BPETokenizer(4, 258).fit(["abba ab"]), WORDS, (4,), (4,), 258, wrong=WRONG_PAIRS),
    "label": Example(lambda: LabelTokenizer(["cat", "dog"]), NAMES, (1,), (1,), 2, wrong=WRONG_NAMES),
    "condition": Example(
        lambda: LabelTokenizer(3),
        LABELS,
        (1,),
        (1,),
        3,
        dict(adaln=True),
        wrong=[["dog"], [3], [-1], [0.5], LABELS[None]],
    ),
    "ids": Example(
        lambda: PassThrough((3, 2), 5),
        *(IDS, (3, 2), (3,), 10),
        dict(code_axes=1, rate=0.5),
        num_codes=2,
        rate=0.5,
        wrong=[IDS[:, 1:], IDS[0], IDS - 1, IDS + 1, IDS / 2, ["a"]],
    ),
    "own": Example(lambda: Degrees(10.0), READINGS, (3, 1), (3,), 1, wrong=NO_READINGS),
}


def wrong_floats(x):
    loud = np.where(np.arange(ROWS) < 3, x.T, 9 * x.T).T  # the last one alone, as NaN
    others = [(9 * x).astype("int32"), [x[0], x[0][1:]], ["one"] * ROWS]
    return [x[:0], x[:, 1:], x[0], x[..., 0], spoiled(x, 3), loud, *others]


@functools.cache
def modality_of(name):
    kind = name.split("_")[1] if "_" in name else None
    return Modality(name, EXAMPLES[name].tokenizer(), tokens=kind, **EXAMPLES[name].options)


@functools.cache
def whole(name):
    """The tokens of its signals."""
    return modality_of(name).encode(EXAMPLES[name].signals)


def test_every_tokenizer_of_the_package_is_one_of_a_modality(numpy_initializers):
    public = {getattr(tokenizers, name) for name in tokenizers.__all__}
    kinds = {kind for kind in public if isinstance(kind, type) and issubclass(kind, Tokenizer | LosslessTokenizer)}
    abstract = {Tokenizer, LosslessTokenizer, tokenizers.TextTokenizer}
    assert kinds - abstract == {type(modality_of(name).tokenizer) for name in EXAMPLES} - {Degrees}


@pytest.fixture(params=EXAMPLES)
def name(request, numpy_initializers):
    return request.param


def of_token(name, flags):
    """Flags of tokens (b, n), one for each number of the tokens: (b, *token_shape)."""
    space = modality_of(name).space
    places = np.indices(space.shape[: len(space.grid)])
    token = np.ravel_multi_index([i // size for i, size in zip(places, space.patch_size)], space.grid)
    flags = flags[:, token]
    return np.broadcast_to(flags.reshape(*flags.shape, *[1] * (len(space.shape) - token.ndim)), (ROWS, *space.shape))


def test_tokens_have_the_form_that_its_space_says(name):
    modality, example, tokens = modality_of(name), EXAMPLES[name], whole(name)
    space = modality.space
    assert isinstance(tokens, Tokens) and tokens.shape == (ROWS, *example.token_shape)
    assert modality.token_shape == space.shape == example.token_shape
    assert (space.grid, space.num_tokens, space.channels) == (example.grid, math.prod(example.grid), example.channels)
    assert (space.num_codes, space.rate, space.adaln) == (example.num_codes, example.rate, modality.adaln)
    assert {key: getattr(modality, key) for key in example.options} == example.options
    if modality.tokens == "codes":
        assert tokens.dtype == "int32" and space.vocabulary == modality.vocabulary == modality.process.vocabulary
        assert 0 <= tokens.min() < tokens.max() < space.vocabulary
        assert space.vocabulary * space.num_codes == space.channels
    else:
        assert tokens.dtype == "float32" and space.vocabulary is None and tokens.std() > 0.05


def test_what_is_encoded_stays_as_it_is(name):
    modality, tokens = modality_of(name), whole(name)
    for again in (tokens, tokens[::2]):
        np.testing.assert_array_equal(modality.encode(again), again)
        np.testing.assert_array_equal(ops.convert_to_numpy(modality.encode_batch(again)), again)
    if name != "own":  # whose signals might look like tokens
        np.testing.assert_array_equal(modality.encode(np.asarray(tokens)), tokens)


def test_a_step_encodes_as_the_host_does_and_trains_no_tokenizer(name, gradients):
    """By the gradient of sum(tokens * weights): by the weights the tokens themselves, and by the tokenizer none."""
    modality, x, tokenizer = modality_of(name), EXAMPLES[name].signals, modality_of(name).tokenizer
    assert not tokenizer.trainable_variables
    if name in ("text", "bytes", "pairs", "own"):
        with pytest.raises(ValueError, match=f"'{name}' must be tokens .* `precompute` gives them"):
            modality.encode_batch(READINGS)
        return
    if name == "label":
        x = np.array([1, 0, 1, 1], "int32")
    tokenizer.trainable = True  # as a user may do
    try:
        variables = tokenizer.trainable_variables
        assert bool(variables) == (not modality.lossless)
        _, (tokens, *others) = gradients(
            lambda weights: ops.sum(weights * ops.cast(modality.encode_batch(ops.convert_to_tensor(x)), "float32")),
            [np.ones((ROWS, *modality.token_shape), "float32")],
            variables,
        )
    finally:
        freeze(tokenizer)
    np.testing.assert_allclose(tokens, whole(name), atol=1e-5)
    assert all(gradient is None or not gradient.any() for gradient in others)


def spoiled(x, row):
    """Signals of which one row is none."""
    if isinstance(x, list):
        return [None if i == row else value for i, value in enumerate(x)]
    x = x.copy()
    x[row] = np.nan if x.dtype.kind == "f" else -1
    return x


def test_what_is_absent_may_hold_anything(name):
    modality, random = modality_of(name), np.random.RandomState(2)
    flags = random.rand(ROWS, modality.space.num_tokens) < 0.6
    flags[0], flags[1] = True, False
    cells, rows = flags.reshape(ROWS, *modality.space.grid), np.arange(ROWS) != 1
    x = spoiled(EXAMPLES[name].signals, 1)
    here = of_token(name, flags)
    tokens = np.array(whole(name))
    tokens[~here] = np.nan if tokens.dtype == "float32" else -1
    by_row = np.where(rows.reshape(-1, *[1] * (here.ndim - 1)), whole(name), 0)
    for given, present, expected in (
        (x, rows, by_row),
        (x, cells, np.where(here, whole(name), 0)),
        (tokens.view(Tokens), cells, np.where(here, whole(name), 0)),
        (whole(name), np.zeros(ROWS, bool), np.zeros_like(whole(name))),
    ):
        found = modality.encode(given, present=present)
        assert found.dtype == whole(name).dtype and isinstance(found, Tokens)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_loss_is_the_mean_over_the_tokens_that_are_wanted(name, gradients):
    """And what is not wanted weighs nothing, whatever the network says of it."""
    modality, random = modality_of(name), np.random.RandomState(3)
    x, t, share = np.array(whole(name)), np.float32([0.9, 0.8, 0.7, 0.6]), np.float32([1, 2, 3, 4])
    wanted = random.rand(ROWS, modality.space.num_tokens) < 0.6
    wanted[0], wanted[:, 0], wanted[3] = True, True, False
    here, codes = of_token(name, wanted), modality.tokens == "codes"
    noise = (random.uniform if codes else random.normal)(size=x.shape).astype("float32")
    output = random.normal(size=(*x.shape, modality.vocabulary) if codes else x.shape).astype("float32")
    output[~here] = 1e3

    def total(output):
        _, target = modality.process.corrupt(*map(ops.convert_to_tensor, (x, t, noise)))
        loss, count = modality.losses(output, target, ops.convert_to_tensor(t), ops.convert_to_tensor(wanted))
        return ops.sum(ops.multiply(loss + 0.1 * count, share))

    value, (gradient,) = gradients(total, [output])
    if codes:
        level = t.reshape(-1, *[1] * (x.ndim - 1))
        learned = noise < level
        p = np.exp(output - output.max(-1, keepdims=True))
        likelihood = np.take_along_axis(p / p.sum(-1, keepdims=True), x[..., None], -1)[..., 0]
        errors, gradient = -np.log(likelihood) / level * learned, np.abs(gradient).max(-1)
    else:
        learned, errors = True, np.square(output - (noise - x))
    rows = [errors[i][here[i]].mean() for i in range(3)]
    assert value == pytest.approx(share[:3] @ rows + 0.1 * share @ wanted.sum(1), rel=1e-5)
    np.testing.assert_array_equal(gradient != 0, here & learned)
    assert (here & learned).any()


def test_it_is_made_again_from_its_config(name):
    modality = modality_of(name)
    clone = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(modality))
    assert type(clone) is Modality and clone is not modality
    for key in ("name", "space", "process", "token_shape", "tokens", "vocabulary", "weight", "patch_size"):
        assert getattr(clone, key) == getattr(modality, key), key
    assert clone.tokenizer.get_config() == modality.tokenizer.get_config()
    assert not clone.tokenizer.trainable_variables


def test_what_is_no_such_signal_is_refused(name):
    example = EXAMPLES[name]
    for x in wrong_floats(example.signals) if example.wrong is None else example.wrong:
        with pytest.raises(ValueError, match=f"'{name}'"):
            modality_of(name).encode(x)
            pytest.fail(f"It is taken: {x!r:.200}")


@functools.cache
def generated():
    """One of each, made by one network."""
    modalities = [modality_of(name) for name in EXAMPLES]
    network = awake(MultimodalDiT(modalities, **{**SMALL, "num_layers": 1}))
    tasks = {"all": (("condition",), tuple(name for name in EXAMPLES if name != "condition"))}
    generator = MultimodalGenerator(network, modalities, tasks, num_steps=2)
    generator.jit_compile = BACKEND == "jax"
    return generator.generate({"condition": [0, 1, 2]})


def test_what_is_generated_is_such_a_signal(name):
    made = generated()
    if name == "condition":
        assert set(made) == set(EXAMPLES) - {"condition"}
        return
    modality, x, example = modality_of(name), made[name], EXAMPLES[name].signals
    assert len(x) == 3 and type(x) is type(example)
    if isinstance(x, list):
        assert all(type(text) is str for text in x)
    else:
        assert x.shape[1:] == example.shape[1:] and x.dtype.kind == example.dtype.kind and np.isfinite(x).all()
        assert len(np.unique(x.reshape(3, -1), axis=0)) == 3
    if name in ("bytes", "pairs"):  # of which not all are characters, and what stands for these is longer
        x = modality.tokenizer.truncate(x)
    assert modality.encode(x).shape == (3, *modality.token_shape)
