"""Looking inside a model of several modalities."""

import itertools
import math

import numpy as np
import pytest
from keras import ops
from multimodal_models import TASKS, awake, batch_of, losses_of, make, modalities, tensors

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT, inspection, metrics, visualization
from keras_mmai.diffusion import normal, uniform
from keras_mmai.inspection.importance import shapley_values
from keras_mmai.layers.attention import SelfAttention, attend, attention_weights
from keras_mmai.noise import row_seeds, split
from keras_mmai.tokenizers import LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def generator():
    return make().generator(num_steps=3)


def test_weights_are_those_by_which_attention_sums_values():
    random = np.random.RandomState(0)
    layer = SelfAttention(2, qk_norm=True)
    x = ops.convert_to_tensor(random.normal(size=(2, 5, 8)).astype("float32"))
    layer.build(x.shape)
    q, k, _ = layer.heads(x)
    mask = ops.convert_to_tensor(np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]]) > 0)
    # of values that are the same for both heads, the sum by the heads' mean weights is the mean of both
    v = ops.convert_to_tensor(np.repeat(random.normal(size=(2, 5, 1, 4)), 2, axis=2).astype("float32"))
    weights = attention_weights(q, k, mask)
    by_weights = numpy(weights) @ numpy(v)[:, :, 0]
    np.testing.assert_allclose(by_weights, numpy(attend(q, k, v, mask)).mean(axis=2), atol=1e-5)
    np.testing.assert_allclose(numpy(weights)[1, :, [1, 4]], 0.0, atol=1e-7)


@pytest.mark.parametrize("streams", ["shared", "separate"])
def test_a_networks_attention_leaves_out_what_is_absent(streams):
    network = awake(MultimodalDiT(modalities(), streams=streams, hidden_dim=16, num_layers=2, num_heads=2))
    tokens = {name: x for name, x in batch_of(2).items() if name != "sound"}
    t = {name: np.full(2, 0.5, "float32") for name in tokens}
    present = {"picture": np.array([[True, False, True, True]] * 2)}
    weights, places = network.attention_weights(*tensors((tokens, t, present)))
    assert places == {"picture": slice(0, 4), "word": slice(4, 7)}
    weights = numpy(weights)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert (weights[:, :, 1] == 0).all() and (weights[:, :, [0, 2, 3]] > 0).all()


def test_attention_is_the_mean_over_the_tokens_that_are_there(generator):
    data, here = batch_of(2), np.array([[True, False, True], [False, True, False]])
    signals = {"picture": data["picture"], "word": data["word"]}
    found = generator.attention(signals, "picture", "word", 0.5, present={"word": here}, seed=1)
    tokens, noise = dict(signals), uniform(split(row_seeds(1, 2), 3)[:, 1], (3,))  # the word is the second modality
    tokens["word"], _ = generator.modality("word").process.corrupt(
        ops.convert_to_tensor(data["word"]), ops.full((2,), 0.5), noise
    )
    t = {"picture": np.zeros(2, "float32"), "word": np.full(2, 0.5, "float32")}
    weights, places = generator.network.attention_weights(*tensors((tokens, t, {"word": here})))
    weights = numpy(weights)[:, places["word"], places["picture"]]
    by_hand = np.stack([row[flags].mean(axis=0) for row, flags in zip(weights, here)])
    np.testing.assert_allclose(found.reshape(2, 4), by_hand, atol=1e-5)


def make_copier():
    """A model of a picture of 4 tokens and a label, which token 2 of the picture alone decides, fitted."""
    random = np.random.RandomState(0)
    x = random.randint(0, 4, (512, 4)).astype("int32")
    data = {"x": x, "y": x[:, 2].copy()}
    mods = [Modality("x", PassThrough((4,), 4)), Modality("y", LabelTokenizer(4)), Modality("z", PassThrough((2,), 2))]
    data["z"] = random.randint(0, 2, (512, 2)).astype("int32")
    # one layer: in more of them tokens pass on what they have heard, and looking at any of them may do
    network = MultimodalDiT(mods, hidden_dim=32, num_layers=1, num_heads=2)
    tasks = {"y": (("x", "z"), ("y",)), "x_y": (("x",), ("y",)), "z_y": (("z",), ("y",)), "only_y": ((), ("y",))}
    model = MultimodalDiffusionTransformer(mods, network, tasks, ema_decays=(), partly_known=0.0, seed=0)
    model.compile("adam")
    model.optimizer.learning_rate = 3e-3
    model.fit(data, batch_size=64, epochs=100, verbose=0)
    return model.generator(num_steps=2), {name: value[:128] for name, value in data.items()}


@pytest.mark.slow
def test_a_trained_model_shows_what_decides(tmp_path):
    generator, data = make_copier()
    sample = {"x": data["x"], "y": data["y"]}
    found = inspection.attention_map(generator, sample, "x", "y", share=0.25, path=tmp_path / "map.png")
    assert found["map"].shape == (128, 4) and (found["map"].argmax(1) == 2).mean() > 0.6  # 1/4 by chance
    assert found["explains"] and found["loss"]["attended"] > found["loss"]["random"] > found["loss"]["whole"]
    assert (tmp_path / "map.png").stat().st_size > 1000
    assert "Where y looks in x: what matters" in found["figure"].get_suptitle()
    nothing = inspection.attention_map(generator, {"z": data["z"], "y": data["y"]}, "z", "y", share=0.5)
    assert not nothing["explains"] and abs(nothing["loss"]["attended"] - nothing["loss"]["random"]) < 0.1

    told = inspection.modality_importance(generator, data, "y", path=tmp_path / "shares.png")
    assert abs(told["values"]["z"]) < 0.05 and told["values"]["x"] > 0.4
    together = told["coalitions"][("x", "z")] - told["coalitions"][()]
    np.testing.assert_allclose(sum(told["values"].values()), together, rtol=1e-5)
    np.testing.assert_allclose(told["coalitions"][()], -math.log(4), atol=0.1)
    assert (tmp_path / "shares.png").stat().st_size > 1000


def test_a_map_of_one_example_explains_nothing(generator):
    found = inspection.attention_map(generator, {name: x[:1] for name, x in batch_of(2).items()}, "sound", "word")
    assert found["map"].shape == (1, 4) and not found["explains"] and found["standard_error"] == 0
    assert "Where word looks in sound: NOT what matters" in found["figure"].get_suptitle()
    np.testing.assert_allclose(found["map"].sum(), 1.0, rtol=1e-5)


def test_shapley_values_are_the_mean_over_all_orders():
    random = np.random.RandomState(0)
    names = "abcd"
    values = {frozenset(c): random.normal() for k in range(5) for c in itertools.combinations(names, k)}
    gains = {name: [] for name in names}
    for order in itertools.permutations(names):
        for i, name in enumerate(order):
            gains[name].append(values[frozenset(order[: i + 1])] - values[frozenset(order[:i])])
    for name, value in shapley_values(values).items():
        np.testing.assert_allclose(value, np.mean(gains[name]))


def test_importance_by_the_bound_of_a_text(generator):
    data = batch_of(3)
    told = inspection.modality_importance(generator, data, "word", num_draws=4)
    assert set(told["coalitions"]) == {(), ("picture",), ("sound",), ("picture", "sound")}
    none = {"picture": np.zeros(3, bool), "sound": np.zeros(3, bool)}
    rest = {name: data[name] for name in none}
    bound = generator.score({"word": data["word"]}, rest, none, num_draws=4)["bound"]
    np.testing.assert_allclose(told["coalitions"][()], -bound.mean(), rtol=1e-5)


def test_losses_by_level_are_those_of_training(generator, tmp_path):
    data = batch_of(6)
    found = inspection.noise_level_losses(generator, data, ["word"], num_levels=4, path=tmp_path / "levels.png")
    np.testing.assert_allclose(found["levels"], [0.125, 0.375, 0.625, 0.875])
    assert set(found["losses"]) == {"picture", "sound"} and found["losses"]["sound"].shape == (4,)
    assert (tmp_path / "levels.png").stat().st_size > 1000
    for i, level in enumerate(found["levels"]):
        at = generator.losses({name: data[name] for name in found["losses"]}, level, {"word": data["word"]}, seed=0)
        for name, losses in at.items():
            np.testing.assert_allclose(found["losses"][name][i], losses.mean(), rtol=1e-5)
            np.testing.assert_allclose(found["standard_errors"][name][i], losses.std() / 6**0.5, rtol=1e-5)
    model = make()  # whose network the generator has
    batch = {**data, "task": np.full(6, list(TASKS).index("word_to_rest"), "int32")}
    shapes = {"picture": (4, 4, 2), "word": (3,), "sound": (4, 2)}
    seeds = split(ops.convert_to_tensor(row_seeds(7, 6)), 3)
    noise = {
        name: (normal if name == "picture" else uniform)(seeds[:, i], shapes[name]) for i, name in enumerate(shapes)
    }
    batch |= {"t": {name: np.full(6, 0.4, "float32") for name in data}, "noise": noise}
    trained = losses_of(model, model(tensors(batch)))
    ours = generator.losses({name: data[name] for name in ("picture", "sound")}, 0.4, {"word": data["word"]}, seed=7)
    for name in ours:
        np.testing.assert_allclose(ours[name], numpy(trained[name]), rtol=1e-4)
    alone = generator.losses({"picture": data["picture"]}, 1.0, seed=3)["picture"]
    again = generator.losses({"picture": data["picture"]}, 1.0, seed=3)["picture"]
    other = generator.losses({"picture": data["picture"]}, 1.0, seed=4)["picture"]
    np.testing.assert_array_equal(alone, again)
    assert (alone != other).all()


def test_the_loss_of_pure_noise_is_the_networks_cross_entropy(generator):
    data = batch_of(4)
    found = generator.losses({"word": data["word"]}, 1.0, {"sound": data["sound"]})["word"]
    tokens = {"word": np.full((4, 3), 6, "int32"), "sound": data["sound"]}
    t = {"word": np.ones(4, "float32"), "sound": np.zeros(4, "float32")}
    logits = numpy(generator.network(tensors(tokens), tensors(t))["word"])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, data["word"][..., None], -1).mean((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # and what is absent has no loss of its own
    here = np.array([True, False, True])
    some = generator.losses({"word": data["word"]}, 1.0, present={"word": np.tile(here, (4, 1))})["word"]
    other = np.where(here, data["word"], 0)
    same = generator.losses({"word": other}, 1.0, present={"word": np.tile(here, (4, 1))})["word"]
    np.testing.assert_array_equal(some, same)


def test_a_trajectory_ends_where_generation_does(generator, tmp_path):
    data = batch_of(2)
    options = dict(steps=3, seed=5)
    found = inspection.denoising_trajectory(
        generator, {"word": data["word"]}, ["picture", "sound"], path=tmp_path / "way.png", **options
    )
    made = generator.generate({"word": data["word"]}, ["picture", "sound"], **options)
    np.testing.assert_allclose(found["times"], [1.0, 2 / 3, 1 / 3])
    assert len(found["signals"]["picture"]) == 3
    np.testing.assert_allclose(found["signals"]["picture"][-1], made["picture"], atol=1e-5)
    first = found["signals"]["sound"][0]
    assert first.shape == made["sound"].shape and first.max() < 5  # the mask is no guess
    assert (tmp_path / "way.png").stat().st_size > 1000


def test_known_tokens_stay_on_the_way(generator):
    data = batch_of(2)
    known = {"word": np.array([True, False, False])}
    for guess in generator.trajectory({"word": data["word"]}, ["word"], known)["word"]:
        np.testing.assert_array_equal(guess[:, 0], data["word"][:, 0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g, d: inspection.attention_map(g, d, "picture", "smell"), "`target` is one of `signals`"),
        (lambda g, d: inspection.attention_map(g, d, "picture", "word", share=1.0), "`share` is in"),
        (lambda g, d: inspection.attention_map(g, d, "word", "word"), "two modalities"),
        (lambda g, d: inspection.attention_map(g, d, "picture", "word", levels=()), "`levels`"),
        (lambda g, d: inspection.modality_importance(g, d, "picture"), "no such bound"),
        (lambda g, d: inspection.modality_importance(g, {"word": d["word"]}, "word"), "beside the target"),
        (lambda g, d: inspection.modality_importance(g, d, "smell"), "`target` is one of"),
        (lambda g, d: inspection.noise_level_losses(g, d, "word"), "`given` are names"),
        (lambda g, d: inspection.noise_level_losses(g, d, list(d)), "`signals` are one or more"),
        (lambda g, d: inspection.noise_level_losses(g, d, num_levels=0), "`num_levels`"),
        (lambda g, d: inspection.noise_level_losses(g, d, num_levels=2.5), "`num_levels`"),
        (lambda g, d: inspection.attention_map(g, d, "picture", "word", num_random=0), "`num_random`"),
        (lambda g, d: inspection.denoising_trajectory(g, want=["smell"]), "`want`"),
        (lambda g, d: inspection.denoising_trajectory(g, num_columns=0), "`num_columns`"),
        (lambda g, d: inspection.denoising_trajectory(g, path="a.jpg"), "must end in .png"),
        (lambda g, d: g.losses(d, 1.5), "noise level in"),
        (lambda g, d: inspection.attention_map(make(), d, "picture", "word"), "`model` is a `MultimodalGenerator`"),
        (lambda g, d: inspection.modality_importance(g.network, d, "word"), "`model` is a `MultimodalGenerator`"),
        (lambda g, d: inspection.noise_level_losses(g.network, d), "`model` is a `MultimodalGenerator`"),
        (lambda g, d: inspection.denoising_trajectory(g.network, d), "`model` is a `MultimodalGenerator`"),
        (lambda g, d: metrics.coherence(g.network, d, [0, 1], {}), "`generator` is a `MultimodalGenerator`"),
        (lambda g, d: visualization.filling_table(g.network, d), "`generator` is a `MultimodalGenerator`"),
    ],
)
def test_refusals(generator, call, message):
    with pytest.raises(ValueError, match=message):
        call(generator, batch_of(2))
