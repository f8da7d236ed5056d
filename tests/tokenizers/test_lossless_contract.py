"""The contract of every public tokenizer that loses nothing. A new one needs an entry in EXAMPLES, and nothing else."""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import tokenizers
from keras_mmai.serialization import register
from keras_mmai.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    LabelTokenizer,
    LosslessTokenizer,
    PassThrough,
    TextTokenizer,
)

TEXTS = ["to be, or not to be", "", "b\u00eb or \U0001f41d\0", "\r\n\u0301"]
IDS = np.array([[[0, 1, 2], [3, 4, 6]], [[6, 5, 4], [3, 2, 1]]])
LATENTS = np.linspace(-3, 3, 24).reshape(2, 3, 4)
# class and variant -> a small example, and what it encodes
EXAMPLES = {
    "ByteTokenizer": lambda **kw: (ByteTokenizer(24, **kw), TEXTS),
    "CharacterTokenizer": lambda **kw: (CharacterTokenizer(24, **kw).fit(TEXTS), TEXTS),
    "CharacterTokenizer given": lambda **kw: (CharacterTokenizer(6, "cab\r\n", **kw), ["abba", "\r\n", ""]),
    "BPETokenizer": lambda **kw: (BPETokenizer(24, 260, **kw).fit(TEXTS), TEXTS),
    "LabelTokenizer": lambda **kw: (LabelTokenizer(3, **kw), np.array([2, 0, 1, 2])),
    "LabelTokenizer names": lambda **kw: (LabelTokenizer(["cat", "dog"], **kw), ["dog", "cat", "dog"]),
    "PassThrough": lambda **kw: (PassThrough((2, 3), 7, **kw), IDS),
    "PassThrough latents": lambda **kw: (PassThrough((3, 4), **kw), LATENTS.astype("float32")),
}
PUBLIC = {
    name
    for name, cls in vars(tokenizers).items()
    if inspect.isclass(cls) and issubclass(cls, LosslessTokenizer) and cls not in (LosslessTokenizer, TextTokenizer)
}
EXPORTED = [name for name in EXAMPLES if not name.startswith(("BPE", "Character"))]


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x)) if ops.is_tensor(x) else np.asarray(x, dtype=object)


def same(x, y):
    return np.array_equal(numpy(x), numpy(y))


@pytest.fixture(params=EXAMPLES)
def example(request):
    return EXAMPLES[request.param]()


def test_every_public_one_has_an_example():
    assert {name.split()[0] for name in EXAMPLES} == PUBLIC


def test_what_is_encoded_comes_back_as_it_was(example):
    model, x = example
    tokens = model.encode(x)
    assert isinstance(tokens, np.ndarray) and tokens.shape == (len(x), *model.token_shape)
    if model.vocabulary is None:
        assert tokens.dtype == "float32"
    else:
        assert tokens.dtype == "int32" and tokens.min() >= 0 and tokens.max() < model.vocabulary
    assert same(model.decode(tokens), x) and same(model.reconstruct(x), x)


def test_tensors_are_decoded_too(example):
    model, x = example
    assert same(model.decode(ops.convert_to_tensor(model.encode(x))), x)


def test_config_round_trip():
    for make in EXAMPLES.values():
        model, _ = make(name="mine")
        clone = type(model).from_config(model.get_config())
        assert clone.get_config() == model.get_config() and clone.name == "mine"
        assert clone.token_shape == model.token_shape


def test_a_loaded_one_is_the_same(example, tmp_path):
    model, x = example
    model.save(tmp_path / "tokenizer.keras")
    loaded = keras.saving.load_model(tmp_path / "tokenizer.keras")
    assert type(loaded) is type(model) and loaded.vocabulary == model.vocabulary
    assert same(loaded.encode(x), model.encode(x)) and same(loaded.reconstruct(x), x)


@register
class Holder(keras.Model):
    def __init__(self, tokenizer, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.built = True


def test_it_is_saved_as_a_part_of_a_model(example, tmp_path):
    model, x = example
    Holder(model).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").tokenizer
    assert same(loaded.encode(x), model.encode(x)) and same(loaded.reconstruct(x), x)


READER = """
import sys
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
results = {}
for request, (signature, inputs) in np.load(sys.argv[2], allow_pickle=True).item().items():
    try:
        (result,) = model.signatures[signature](**{key: tf.constant(x) for key, x in inputs.items()}).values()
        results[request] = result.numpy()
    except tf.errors.InvalidArgumentError as error:
        results[request] = str(error)
np.save(sys.argv[3], results)
"""


def served(model, x):
    """What is served of x: texts as bytes, labels as ints."""
    if isinstance(model, TextTokenizer):
        return np.array([text.encode() for text in x], dtype=object)
    return model.encode(x)[:, 0] if isinstance(model, LabelTokenizer) else model.encode(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_it_is_served(name, tmp_path):
    model, x = EXAMPLES[name]()
    folder = model.export(tmp_path / "served", verbose=False)
    assert (folder / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0
    x, tokens = served(model, x), model.encode(x)
    requests = {
        "encode": ("encode", {"x": x}),
        "decode": ("decode", {"tokens": tokens}),
        "reconstruct": ("reconstruct", {"x": x}),
    }
    if model.vocabulary is not None:
        wrong = x * 30 if x.dtype == object else x + model.vocabulary
        requests["wrong x"] = ("encode", {"x": wrong})
        requests["wrong tokens"] = ("decode", {"tokens": tokens - model.vocabulary})
    np.save(tmp_path / "in.npy", requests)
    command = [sys.executable, "-c", READER, folder, tmp_path / "in.npy", tmp_path / "out.npy"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    results = np.load(tmp_path / "out.npy", allow_pickle=True).item()
    assert results["encode"].dtype == tokens.dtype
    for request, expected in (("encode", tokens), ("decode", x), ("reconstruct", x)):
        np.testing.assert_array_equal(results[request], expected)
    if model.vocabulary is not None:
        out_of_range = f"ids must be in 0..{model.vocabulary - 1}"
        too_long = "a text has more than length=24 bytes"
        assert out_of_range in results["wrong tokens"]
        assert (too_long if isinstance(model, TextTokenizer) else out_of_range) in results["wrong x"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in EXPORTED])
def test_what_cannot_be_served_says_so_and_writes_nothing(name, tmp_path):
    model, _ = EXAMPLES[name]()
    with pytest.raises(ValueError, match=r"can't be exported.*use `ByteTokenizer`, which is exported with strings"):
        model.export(tmp_path / "served")
    assert not [*tmp_path.iterdir()]


# Labels


def test_a_label_is_its_place_among_the_names():
    model = LabelTokenizer(("cat", "dog", "gnu"))
    assert model.vocabulary == 3 and model.token_shape == (1,)
    for labels in (["gnu", "cat"], np.array(["gnu", "cat"]), np.array([b"gnu", b"cat"]), [2, 0], np.array([2, 0])):
        np.testing.assert_array_equal(model.encode(labels), [[2], [0]])
    assert model.decode([[1], [1], [0]]) == ["dog", "dog", "cat"]
    assert model.encode([]).shape == (0, 1) and model.decode(np.zeros((0, 1), "int32")) == []


def test_label_tensors_stay_tensors():
    model = LabelTokenizer(3)
    tokens = model.encode(ops.convert_to_tensor(np.array([2, 0], "uint8")))
    assert ops.is_tensor(tokens) and keras.backend.standardize_dtype(tokens.dtype) == "int32"
    np.testing.assert_array_equal(numpy(tokens), [[2], [0]])
    labels = model.decode(tokens)
    assert ops.is_tensor(labels)
    np.testing.assert_array_equal(numpy(labels), [2, 0])


def test_errors_of_labels_teach():
    numbers, names = LabelTokenizer(3), LabelTokenizer(["cat", "dog"])
    for classes in (0, -1, []):
        with pytest.raises(ValueError, match=r"`classes` is a number above 0, or names. Received: "):
            LabelTokenizer(classes)
    with pytest.raises(ValueError, match=r"distinct. Received twice: \['a'\]"):
        LabelTokenizer(["a", "b", "a"])
    with pytest.raises(ValueError, match=r"`classes` must be str along one axis.*Received: 'cat'"):
        LabelTokenizer("cat")
    with pytest.raises(ValueError, match=r"0..2. Received: values from 0 to 3, the first outside at index \(1,\)"):
        numbers.encode([0, 3])
    with pytest.raises(ValueError, match=r"0..1. Received: values from -1 to -1"):
        names.encode(np.array([-1]))
    with pytest.raises(ValueError, match=r"0..2. Received: values from 3 to 3"):
        numbers.decode([[3]])
    with pytest.raises(ValueError, match=r"0..1. Received: values from 2 to 2"):
        names.decode(ops.convert_to_tensor([[2]]))
    with pytest.raises(ValueError, match=r"integers of shape \('b',\) in 0..2. Received: \(2, 1\) int"):
        numbers.encode(np.array([[0], [1]]))
    with pytest.raises(ValueError, match=r"integers of shape \('b', 1\) in 0..2. Received: \(2,\) int"):
        numbers.decode(ops.convert_to_tensor([0, 1]))
    with pytest.raises(ValueError, match=r"names \('cat', 'dog'\). Received: 'cow' at 1, 'yak' at 3"):
        names.encode(["cat", "cow", "dog", "yak", "cow"])
    with pytest.raises(ValueError, match=r"ints \(b,\) in 0..2; for names give them as `classes`. Received: \['cat'\]"):
        numbers.encode(["cat"])
    with pytest.raises(ValueError, match=r"ints \(b,\) in 0..2"):
        numbers.encode(np.array([1.0]))
    with pytest.raises(ValueError, match=r"nothing to learn"):
        numbers.fit([0, 1])


# Tokens from elsewhere


def test_tokens_go_through_as_they_are():
    ids, latents = PassThrough((2, 3), 7), PassThrough((3, 4))
    assert ids.vocabulary == 7 and latents.vocabulary is None and latents.latent_shape == (3, 4)
    assert ids.encode(IDS.astype("uint8")).dtype == "int32" and latents.encode(LATENTS).dtype == "float32"
    for model, x in ((ids, IDS), (latents, LATENTS)):
        tensor = model.encode(ops.convert_to_tensor(x.astype("uint8" if model is ids else "float16")))
        assert ops.is_tensor(tensor)
        assert keras.backend.standardize_dtype(tensor.dtype) == ("int32" if model is ids else "float32")
        np.testing.assert_allclose(numpy(tensor), x, atol=1e-2)
        assert model.decode(x[:0]).shape == (0, *model.token_shape)


def test_errors_of_tokens_from_elsewhere_teach():
    ids, latents = PassThrough((2, 3), 7, name="ids"), PassThrough((3, 4), name="latents")
    for method in (ids.encode, ids.decode):
        with pytest.raises(ValueError, match=r"Received: values from 0 to 7, the first outside at index \(0, 1, 2"):
            method(np.where(IDS == 6, 7, IDS))
        with pytest.raises(ValueError, match=r"ids are integers of shape \('b', 2, 3\) in 0..6. Received: \(2, 2\)"):
            method(IDS[..., 0])
        with pytest.raises(ValueError, match=r"Received: \(2, 2, 3\) float32"):
            method(ops.convert_to_tensor(IDS.astype("float32")))
    for method in (latents.encode, latents.decode):
        with pytest.raises(ValueError, match=r"latents are floats of shape \('b', 3, 4\). Received: \(2, 4\) float64"):
            method(LATENTS[:, 0])
        with pytest.raises(ValueError, match=r"Received: \(2, 3, 4\) int32"):
            method(ops.zeros((2, 3, 4), "int32"))
    with pytest.raises(ValueError, match=r"\('b',\). Received: \(\) float64"):
        PassThrough(()).encode(1.0)
    with pytest.raises(ValueError, match=r"ints above 0, all known. Received: \(None, 3\)"):
        PassThrough((None, 3))
    with pytest.raises(ValueError, match=r"`vocabulary` is the number of different ids, or None. Received: 0"):
        PassThrough((3,), 0)
