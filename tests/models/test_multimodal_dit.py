"""The network of several modalities."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import assert_close, awake, batch_of, modalities, tensors

from keras_mmai import DiT, MultimodalDiT
from keras_mmai.models import TokenSpace

numpy = ops.convert_to_numpy
SMALL = dict(hidden_dim=16, num_layers=2, num_heads=2)


@pytest.fixture(params=["shared", "separate"])
def network(request):
    return awake(MultimodalDiT(modalities(), streams=request.param, **SMALL))


@pytest.fixture
def tokens():
    return {name: batch_of(5)[name] for name in ("picture", "word", "sound")}


def times(value=0.5):
    return dict.fromkeys(("picture", "word", "sound"), np.full(5, value, "float32"))


def test_shapes(network, tokens):
    outputs = network(tensors(tokens), times())
    shapes = {name: tuple(x.shape) for name, x in outputs.items()}
    assert shapes == {"picture": (5, 4, 4, 2), "word": (5, 3, 6), "sound": (5, 4, 2, 5)}
    assert network.compute_output_shape({name: x.shape for name, x in tokens.items()}) == shapes
    assert all(keras.backend.standardize_dtype(x.dtype) == "float32" for x in outputs.values())


def test_weights_of_a_block_are_not_named_as_a_modality():
    """By their names Muon leaves out what is no matrix of a block, and a user's names must not change that."""
    spaces = {"embedding": TokenSpace((3,), 6), "output": TokenSpace((4, 2))}
    matrices = [v.path for block in MultimodalDiT(spaces, **SMALL).blocks for v in block.weights if len(v.shape) == 2]
    plain = [path for path in matrices if "modulation" not in path]
    assert len(plain) == 2 * 2 * 4 and not [path for path in plain if "embed" in path or "output" in path]


def test_ids_start_as_large_as_latents_and_conditions_as_labels():
    spaces = {"x": TokenSpace((8, 4)), "ids": TokenSpace((8,), 60), "label": TokenSpace((1,), 60, adaln=True)}
    embeds = MultimodalDiT(spaces, hidden_dim=64, num_layers=1).embeds
    ids, label = (numpy(embeds[name].table.embeddings).std() for name in ("ids", "label"))
    latents = numpy(embeds["x"](np.random.RandomState(0).normal(size=(64, 8, 4)).astype("float32"))).std()
    assert ids == pytest.approx(0.3, rel=0.05) and label == pytest.approx(0.02, rel=0.05)
    assert 0.5 < ids / latents < 2


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_a_label_as_condition_makes_it_a_dit(positions):
    spaces = {"x": TokenSpace((4, 4, 2), patch_size=2), "y": TokenSpace((1,), 3, adaln=True)}
    network = awake(MultimodalDiT(spaces, positions=positions, **{**SMALL, "qk_norm": False}))
    dit = DiT((4, 4, 2), patch_size=2, num_classes=3, positions=positions, label_dropout=0.0, **SMALL)
    network.modality_embedding.assign(np.zeros(network.modality_embedding.shape))
    pairs = [
        (dit.patch_embed, network.embeds["x"]),
        (dit.label_embed, network.embeds["y"]),
        (dit.time_embed, network.time_embed),
        (dit.output_layer, network.outputs_of["x"]),
        *zip(dit.blocks, network.blocks),
    ]
    copied = 0
    for target, source in pairs:
        assert [v.shape for v in target.weights] == [v.shape for v in source.weights]
        for to, by in zip(target.weights, source.weights):
            to.assign(by)
            copied += 1
    assert copied == len(dit.trainable_variables)
    x, t = batch_of(5)["picture"], np.linspace(0, 1, 5).astype("float32")
    y = np.array([0, 1, 2, 1, 0], "int32")
    ours = network({"x": x, "y": y[:, None]}, {"x": t})["x"]
    np.testing.assert_allclose(numpy(ours), numpy(dit(x, t, labels=y)), atol=2e-6)
    without = [network({"x": x}, {"x": t}), network({"x": x, "y": y[:, None]}, {"x": t}, present={"y": y < 0})]
    for output in without:
        np.testing.assert_allclose(numpy(output["x"]), numpy(dit(x, t)), atol=2e-6)
    assert np.abs(numpy(ours) - numpy(without[0]["x"])).max() > 1e-3


def test_what_is_absent_changes_nothing(network, tokens):
    present = {"sound": np.zeros(5, bool), "word": np.array([True, False, True, False, True])}
    before = network(tensors(tokens), times(), present=present)
    other = {**tokens, "sound": (tokens["sound"] + 1) % 5, "word": tokens["word"].copy()}
    other["word"][[1, 3]] = 5
    after = network(tensors(other), times(), present=present)
    for name in ("picture", "word"):
        rows = np.arange(5) if name == "picture" else [0, 2, 4]
        np.testing.assert_array_equal(numpy(after[name])[rows], numpy(before[name])[rows])
    assert np.abs(numpy(network(tensors(other), times())["picture"]) - numpy(before["picture"])).max() > 1e-4

    spoiled = {**tokens, "picture": np.full_like(tokens["picture"], np.nan)}
    gone = network(tensors(spoiled), times(), present={"picture": np.zeros(5, bool)})
    left_out = network(tensors({name: tokens[name] for name in ("word", "sound")}), times())
    assert_close({name: gone[name] for name in left_out}, left_out, atol=1e-6)


@pytest.mark.parametrize("streams", ["separate", "shared"])
def test_padding_equals_cropping(streams):
    longer, shorter = ({"word": TokenSpace((n,), 6), "x": TokenSpace((4, 2))} for n in (5, 3))
    network, cropped = (awake(MultimodalDiT(spaces, streams=streams, **SMALL)) for spaces in (longer, shorter))
    for to, by in zip(cropped.weights, network.weights):
        to.assign(by)
    word, x = np.array([[1, 2, 3, 4, 5], [0, 2, 4, 1, 3]], "int32"), np.ones((2, 4, 2), "float32")
    t = {"word": np.full(2, 0.5, "float32"), "x": np.full(2, 0.3, "float32")}
    here = np.broadcast_to(np.arange(5) < 3, (2, 5))
    whole = network({"word": word, "x": x}, t, present={"word": here})
    part = cropped({"word": word[:, :3], "x": x}, t)
    assert_close({"word": whole["word"][:, :3], "x": whole["x"]}, part, atol=1e-6)


def test_known_tokens_are_at_noise_level_0(network, tokens):
    everything = {"word": np.ones((5, 3), bool)}
    ours = network(tensors(tokens), times(), known=everything)
    assert_close(ours, network(tensors(tokens), {**times(), "word": np.zeros(5, "float32")}), atol=1e-6)
    nothing = network(tensors(tokens), times(), known={"word": np.zeros((5, 3), bool)})
    assert_close(nothing, network(tensors(tokens), times()), atol=1e-6)
    some = network(tensors(tokens), times(), known={"word": np.eye(5, 3) > 0})
    assert all(np.abs(numpy(some["word"]) - numpy(x["word"])).max() > 1e-4 for x in (ours, nothing))


def test_the_order_of_names_does_not_matter(network, tokens):
    turned = network(dict(reversed(tokens.items())), dict(reversed(times().items())))
    assert_close({name: turned[name] for name in tokens}, network(tensors(tokens), times()), atol=0)


def test_one_second_is_one_place_for_every_modality():
    spaces = {"fast": TokenSpace((8,), 4, rate=8.0), "slow": TokenSpace((4,), 4, rate=4.0)}
    fast, slow = (space.coordinates(8.0)[:, 0] for space in spaces.values())
    np.testing.assert_array_equal(fast[::2], slow)
    network = MultimodalDiT(spaces, **SMALL)
    np.testing.assert_array_equal(network._rotary["fast"][0][::2], network._rotary["slow"][0])
    np.testing.assert_array_equal(network._added["fast"][::2], network._added["slow"])
    assert TokenSpace((3, 2, 2), 4, rate=2.0).coordinates(8.0).tolist()[4:6] == [[4, 0, 0], [4, 0, 1]]


def test_a_token_says_where_it_is():
    """Rotations tell distances alone: one token by itself is the same at every place."""
    x = np.ones((1, 4), "int32")
    for positions, differ in (("rotary", False), ("sincos", True), ("both", True)):
        network = awake(MultimodalDiT({"x": TokenSpace((4,), 3)}, positions=positions, **SMALL))
        outputs = []
        for place in range(4):
            here = np.arange(4)[None] == place
            outputs.append(numpy(network({"x": x}, {"x": np.ones(1, "float32")}, present={"x": here})["x"])[0, place])
        assert (np.ptp(outputs, axis=0).max() > 1e-3) == differ


def test_mixed_precision_keeps_times_and_outputs_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = awake(MultimodalDiT(modalities(), **SMALL))
    outputs = network(tensors({name: batch_of(5)[name] for name in ("picture", "word")}), times())
    keras.config.set_dtype_policy("float32")
    twin = MultimodalDiT(modalities(), **SMALL)
    for to, by in zip(twin.weights, network.weights):
        to.assign(by)
    exact = twin(tensors({name: batch_of(5)[name] for name in ("picture", "word")}), times())
    assert_close(outputs, exact, atol=0.1)
    assert all(keras.backend.standardize_dtype(x.dtype) == "float32" for x in outputs.values())


def test_each_token_can_have_a_noise_level_of_its_own(network, tokens):
    level, grid = np.linspace(0.1, 0.9, 5).astype("float32"), {"picture": 4, "word": 3, "sound": 4}
    alike = {name: np.repeat(level[:, None], n, axis=1) for name, n in grid.items()}
    whole = network(tensors(tokens), dict.fromkeys(grid, level))
    assert_close(network(tensors(tokens), alike), whole)
    known = {"picture": np.arange(4)[None] < [[2]] * 5, "sound": np.arange(4)[None] < [[1]] * 5}
    clean = {**alike, **{name: np.where(flags, 0.0, alike[name]).astype("float32") for name, flags in known.items()}}
    by_known = network(tensors(tokens), dict.fromkeys(grid, level), known=known)
    assert_close(network(tensors(tokens), clean), by_known)
    mixed = {"picture": alike["picture"], "word": level, "sound": clean["sound"]}
    assert_close(network(tensors(tokens), mixed, known=known), by_known)
    assert np.abs(numpy(by_known["picture"]) - numpy(whole["picture"])).max() > 1e-3
