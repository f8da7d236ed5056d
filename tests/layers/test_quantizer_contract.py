"""The contract of every public quantizer: a new one needs an entry in EXAMPLES, and nothing else."""

import inspect

import keras
import numpy as np
import pytest
from codebook import normal, numbers
from keras import ops

from keras_mmai import layers
from keras_mmai.layers.quantizers import Quantizer


def vectors(k=8, dim=4, **kwargs):
    return layers.VectorQuantizer(k, dim, **{"initialization": "uniform", "revival_threshold": 0.0, **kwargs})


# name -> (quantizer of latents of width 4, shape of one token's codes)
EXAMPLES = {
    "ema": (lambda **kw: vectors(**kw), ()),
    "gradient": (lambda **kw: vectors(codebook="gradient", gradient="rotation", **kw), ()),
    "cosine": (lambda **kw: vectors(distance="cosine", **kw), ()),
    "projected": (lambda **kw: vectors(code_dim=2, distance="cosine", codebook="gradient", **kw), ()),
    "SimVQ": (lambda **kw: layers.SimVQ(8, 4, **kw), ()),
    "FiniteScalarQuantizer": (lambda **kw: layers.FiniteScalarQuantizer((3, 4, 5, 2), **kw), ()),
    "projected grid": (lambda **kw: layers.FiniteScalarQuantizer((5, 3), embedding_dim=4, **kw), ()),
    "LookupFreeQuantizer": (lambda **kw: layers.LookupFreeQuantizer(4, **kw), ()),
    "spherical": (lambda **kw: layers.LookupFreeQuantizer(4, spherical=True, temperature=1.0, **kw), ()),
    "ResidualQuantizer": (lambda **kw: layers.ResidualQuantizer([vectors(k) for k in (8, 8, 6)], **kw), (3,)),
    "projected residual": (
        lambda **kw: layers.ResidualQuantizer([layers.SimVQ(8, 3) for _ in range(2)], embedding_dim=4, **kw),
        (2,),
    ),
    "GroupedQuantizer": (
        lambda **kw: layers.GroupedQuantizer([vectors(8, 3), layers.LookupFreeQuantizer(1)], **kw),
        (2,),
    ),
    "grouped residual": (
        lambda **kw: layers.GroupedQuantizer(
            [layers.ResidualQuantizer([vectors(8, 2) for _ in range(3)]) for _ in range(2)], **kw
        ),
        (2, 3),
    ),
}
PUBLIC = {
    cls for cls in vars(layers).values() if inspect.isclass(cls) and issubclass(cls, Quantizer) and cls is not Quantizer
}


# one of each class is enough for a quick run
VARIANTS = ("cosine", "projected grid", "spherical", "projected residual", "grouped residual")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in EXAMPLES])
def example(request):
    make, code_shape = EXAMPLES[request.param]

    def build(**kwargs):
        layer = make(**kwargs)
        layer.build((None, 4))
        numbers = np.random.default_rng(2)
        for variable in layer.weights:  # codes far enough from each other that no rounding decides
            if variable.name in ("embeddings", "sums", "basis", "kernel"):
                values = numbers.normal(size=variable.shape).astype("float32")
                variable.assign(values if variable.name != "sums" else sums_of(layer, variable))
        return layer

    return build, code_shape


def sums_of(layer, sums):
    """Keeps e = M / N at N = 1."""
    owner = [q for q in layer._flatten_layers() if getattr(q, "shift", None) is sums]
    return owner[0].embeddings


def assert_same_state(ours, theirs):
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=a.path)


def test_every_public_quantizer_has_an_example():
    covered = {type(layer) for make, _ in EXAMPLES.values() for layer in [make()]}
    assert covered == PUBLIC, "add the new quantizer to EXAMPLES (or remove the old one)"


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 4), (2, 3, 2, 4), (0, 4)])
def test_codes_and_vectors_of_any_rank(example, shape, forward):
    make, code_shape = example
    layer, z = make(), normal(*shape)
    output = forward(layer, {"z": z})
    assert layer.code_shape == code_shape
    assert tuple(output["codes"].shape) == (*shape[:-1], *code_shape) and "int32" in str(output["codes"].dtype)
    assert tuple(output["quantized"].shape) == shape
    assert set(output["losses"]) == set(layer.loss_names)
    if shape[0]:
        codes = numbers(output["codes"])
        assert codes.min() >= 0 and codes.max() < layer.vocabulary
        np.testing.assert_allclose(layer.lookup(output["codes"]), output["quantized"], atol=1e-6)
        assert np.abs(numbers(output["quantized"])).max() > 0.01
        assert all(np.isfinite(float(loss)) for loss in output["losses"].values())


def test_distances_are_least_to_the_chosen_codes(example):
    make, code_shape = example
    layer, z = make(), normal(2, 5, 4)
    codes = numbers(layer(z)["codes"])
    distances = numbers(layer.distances(z, codes))
    assert distances.shape == (2, 5, *code_shape) and distances.dtype == "float32" and distances.min() >= 0
    assert len(layer.vocabularies) == int(np.prod(code_shape)) and max(layer.vocabularies) == layer.vocabulary
    for place, size in zip(np.ndindex(*code_shape), layer.vocabularies):
        for code in range(size):
            other = codes.copy()
            other[(slice(None), slice(None), *place)] = code
            there = numbers(layer.distances(z, other))[(slice(None), slice(None), *place)]
            assert (distances[(slice(None), slice(None), *place)] <= there + 1e-5).all()


def test_codes_are_drawn_by_their_distance(example):
    """At every place, given the codes before it, p(k) ~ exp(-d^2 / temperature)."""
    make, code_shape = example
    layer, temperature = make(), 1.5
    draws = 500 if len(layer.vocabularies) < 4 else 6000  # the same codes are rarely drawn for many places
    z = np.tile(0.7 * normal(1, 1, 4, seed=3), (20, draws, 1))
    codes = numbers(layer.sample(z, 0, temperature))
    assert codes.shape == (20, draws, *code_shape) and codes.dtype == "int32"
    codes = codes.reshape(20 * draws, -1)
    for place, size in enumerate(layer.vocabularies):
        prefixes, counts = np.unique(codes[:, :place], axis=0, return_counts=True)
        prefix = prefixes[counts.argmax()]
        found = codes[(codes[:, :place] == prefix).all(axis=1), place]
        tried = np.zeros((size, codes.shape[1]), "int32")
        tried[:, :place], tried[:, place] = prefix, np.arange(size)
        distance = numbers(layer.distances(np.tile(z[0, :1], (size, 1)), tried.reshape(size, *code_shape)))
        score = np.exp(-(distance.reshape(size, -1)[:, place].astype("float64") ** 2) / temperature)
        expected, n = score / score.sum(), len(found)
        assert n > 300 and expected.max() < 0.95  # or this would show nothing
        deviation = np.sqrt(expected * (1 - expected) / n)
        assert (np.abs(np.bincount(found, minlength=size) / n - expected) < 5 * deviation + 1 / n).all()


class Draw(keras.layers.Layer):
    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def call(self, z, seed):
        return self.quantizer.sample(z, seed, 2.0)


def test_a_draw_is_of_its_row_and_seed(example, compiled):
    make, _ = example
    layer, z = make(), normal(3, 5, 4)
    seed = np.array([[0, 7], [0, 8], [1, 7]], "int32")
    codes = numbers(compiled(Draw(layer))({"z": z, "seed": seed}))
    np.testing.assert_array_equal(codes[1:2], layer.sample(z[1:2], seed[1:2], 2.0))
    assert (codes != numbers(layer.sample(z, seed + 1, 2.0))).any()
    np.testing.assert_array_equal(layer.sample(z, 0, 1e-6), layer.encode(z)["codes"])
    broken = z.copy()
    broken[0, 1] = np.nan
    others = np.arange(15).reshape(3, 5) != 1
    np.testing.assert_array_equal(
        numbers(layer.sample(broken, 0, 2.0))[others], numbers(layer.sample(z, 0, 2.0))[others]
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_positive(example, temperature):
    with pytest.raises(ValueError, match="temperature"):
        example[0]().sample(normal(2, 4), 0, temperature)


def test_losses_are_added_once(example):
    make, _ = example
    layer = make()
    losses = layer(normal(2, 5, 4))["losses"]
    assert len(layer.losses) == (1 if losses else 0)
    if losses:
        np.testing.assert_allclose(float(layer.losses[0]), float(sum(losses.values())), rtol=1e-5, atol=1e-6)


def test_a_mask_equals_leaving_out(example, forward):
    make, _ = example
    whole, part = make(), make()
    z = normal(2, 4, 6, 4)
    mask = np.random.default_rng(1).random((2, 4, 6)) < 0.6
    z[~mask] = np.nan
    masked = forward(whole, {"z": z, "mask": mask}, training=True)
    plain = forward(part, {"z": z[mask]}, training=True)
    np.testing.assert_array_equal(numbers(masked["codes"])[mask], plain["codes"])
    np.testing.assert_allclose(numbers(masked["quantized"])[mask], plain["quantized"], atol=1e-6)
    assert not numbers(masked["codes"])[~mask].any() and not numbers(masked["quantized"])[~mask].any()
    for name, loss in plain["losses"].items():
        np.testing.assert_allclose(masked["losses"][name], loss, rtol=1e-4, atol=1e-6)
    assert_same_state(whole, part)


def test_nan_in_padding_reaches_no_gradient(example, gradients):
    make, _ = example
    layer, z = make(), normal(6, 4)
    z[4:] = np.nan
    mask = ops.convert_to_tensor(np.arange(6) < 4)

    def loss(z):
        output = layer(z, mask=mask)
        return ops.sum(output["quantized"] * output["quantized"]) + sum(output["losses"].values())

    value, (by_z, *others) = gradients(loss, [z], layer.trainable_variables)
    assert np.isfinite(value) and np.isfinite(by_z).all() and not by_z[4:].any() and by_z[:4].any()
    assert all(g is None or np.isfinite(g).all() for g in others)


def test_a_row_that_is_not_finite_is_seen_and_leaves_no_trace(example, forward):
    make, _ = example
    z = normal(10, 4)
    for bad in (np.nan, np.inf):
        dirty, clean = make(), make()
        output = forward(dirty, {"z": np.concatenate([z, np.full((3, 4), bad, "float32")])}, training=True)
        expected = forward(clean, {"z": z}, training=True)
        for name, loss in expected["losses"].items():
            np.testing.assert_allclose(output["losses"][name], loss, rtol=1e-4, atol=1e-6)
        assert_same_state(dirty, clean)
        assert not np.isfinite(numbers(output["quantized"])[10:]).any()
        assert np.isfinite(numbers(output["quantized"])[:10]).all()


def test_codes_do_not_depend_on_the_batch(example, forward):
    make, _ = example
    layer, z = make(), normal(64, 4)
    whole = numbers(forward(layer, {"z": z})["codes"])
    for i in (0, 17, 63):
        np.testing.assert_array_equal(numbers(forward(layer, {"z": z[i : i + 1]})["codes"])[0], whole[i])


@pytest.mark.parametrize(
    "policy, size", [("mixed_bfloat16", 1.0), pytest.param("float16", 1e3, marks=pytest.mark.slow)]
)
def test_float32_inside_under_every_policy(example, policy, size, forward):
    """Squares of the larger latents overflow in float16."""
    make, _ = example
    low, full = make(dtype=policy), make()
    z = ops.cast(size * normal(32, 4), low.compute_dtype)
    output = forward(low, {"z": z}, training=True)
    expected = forward(full, {"z": ops.cast(z, "float32")}, training=True)
    assert output["quantized"].dtype == z.dtype
    np.testing.assert_array_equal(output["codes"], expected["codes"])
    for name, loss in expected["losses"].items():
        assert "float32" in str(output["losses"][name].dtype)
        np.testing.assert_allclose(output["losses"][name], loss, rtol=1e-6)
    assert_same_state(low, full)


@pytest.mark.slow
def test_running_use_of_codes(example, compiled):
    make, code_shape = example
    layer, z = make(), normal(256, 4)
    step = compiled(layer, training=True)
    for _ in range(300):  # the moving average forgets what was before
        output = step({"z": z})
    if any(v.name == "sums" for v in layer.weights):  # codes that move: compare with the last ones
        output = step({"z": z})
    use, codes = numbers(layer.use), numbers(output["codes"]).reshape(256, -1)
    assert use.shape == (*code_shape, layer.vocabulary)
    np.testing.assert_allclose(use.sum(-1), 1.0, rtol=1e-4)
    for place, shares in enumerate(use.reshape(-1, layer.vocabulary)):
        expected = np.bincount(codes[:, place], minlength=layer.vocabulary) / 256
        np.testing.assert_allclose(shares, expected, atol=0.06)
    assert (
        1 <= float(layers.perplexity(ops.convert_to_tensor(use.reshape(-1, layer.vocabulary)[0]))) <= layer.vocabulary
    )


def test_frozen_it_stands_still(example, forward):
    make, _ = example
    layer = make()
    layer.trainable = False
    before = [numbers(v).copy() for v in layer.weights]
    forward(layer, {"z": normal(32, 4)}, training=True)
    for value, variable in zip(before, layer.weights):
        np.testing.assert_array_equal(numbers(variable), value, err_msg=variable.path)


def test_lookup_clips_what_is_out_of_range(example):
    make, code_shape = example
    layer = make()
    ends = [np.full((1, *code_shape), n, "int32") for n in (0, layer.vocabulary - 1, layer.vocabulary + 7)]
    first, last, beyond = (numbers(layer.lookup(codes)) for codes in ends)
    np.testing.assert_array_equal(beyond, last)
    assert np.isfinite(first).all() and first.shape == (1, 4)


def test_latents_of_another_width(example):
    make, _ = example
    layer = make()
    for wrong in (normal(2, 8), normal(2, 3, 3)):
        with pytest.raises(ValueError, match=r"takes latents of width 4. Received: latents of shape"):
            layer(wrong)
