"""What else a generator of several modalities is asked: classes, bounds, features."""

import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, awake, batch_of, modalities, tensors

from keras_mmai import Modality, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import LogitNormalTimes, MaskedDiffusion, uniform
from keras_mmai.noise import row_seeds, split
from keras_mmai.tokenizers import LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


def test_score_leaves_out_what_is_not_present(generator):
    data, here = batch_of(4), np.arange(3) < 2
    here = np.broadcast_to(here, (4, 3))
    other = np.where(here, data["word"], (data["word"] + 1) % 6)
    one, same = (
        generator.score({"word": x}, present={"word": here}, num_draws=8)["bound"] for x in (data["word"], other)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - generator.score({"word": data["word"]}, num_draws=8)["bound"]).min() > 0.1  # of all tokens
    assert (one > 0).any()


def test_score_does_not_depend_on_the_times_of_training():
    mods = [
        Modality("x", PassThrough((3,), 5)),
        Modality("x", PassThrough((3,), 5), process=MaskedDiffusion(5, times=LogitNormalTimes())),
    ]
    network = awake(MultimodalDiT(mods[:1], **SMALL))
    x = np.array([[0, 1, 2], [3, 4, 0]], "int32")
    bounds = [MultimodalGenerator(network, [m]).score({"x": x}, num_draws=4)["bound"] for m in mods]
    np.testing.assert_array_equal(*bounds)


def timeless(network):
    """What it says of one masked token does not depend on how likely it was to be masked."""
    awake(network)
    for weight in network.time_embed.weights:
        weight.assign(np.zeros(weight.shape))
    return network


def test_classify_is_the_softmax_where_all_is_masked():
    mods = [*modalities()[:1], Modality("label", LabelTokenizer(3))]
    generator = MultimodalGenerator(timeless(MultimodalDiT(mods, **SMALL)), mods)
    picture = batch_of(4)["picture"]
    p = generator.classify({"picture": picture}, "label")
    levels = {"picture": np.zeros(4, "float32"), "label": np.ones(4, "float32")}
    logits = numpy(generator.network({"picture": picture, "label": np.full((4, 1), 3, "int32")}, levels)["label"])
    expected = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(p, expected, atol=1e-5)
    labels = generator.generate({"picture": np.repeat(picture[:1], 2000, 0)}, want=["label"], batch_size=2000)["label"]
    np.testing.assert_allclose(np.bincount(labels, minlength=3) / 2000, expected[0], atol=0.04)


def test_score_of_one_id_is_its_log_likelihood():
    """Of one token the bound is exact: the loss where it is masked, whatever t is."""
    mods = [*modalities()[:1], Modality("label", LabelTokenizer(3))]
    generator = MultimodalGenerator(timeless(MultimodalDiT(mods, **SMALL)), mods)
    picture, label = batch_of(4)["picture"], np.array([0, 1, 2, 1], "int32")
    p = generator.classify({"picture": picture}, "label")
    score = generator.score({"label": label}, {"picture": picture}, num_draws=400)
    error = np.abs(score["bound"] + np.log(p[np.arange(4), label]))
    assert (score["standard_error"] < 0.3 * score["bound"] + 0.03).all() and (score["standard_error"] > 0).all()
    assert (error < 4 * score["standard_error"]).all()


@pytest.mark.parametrize("name, mask", [("word", 6), ("sound", 5)])
def test_score_is_the_mean_over_noise_levels_of_what_masked_ids_cost(generator, name, mask):
    """By hand: one level t in each stratum of (0, 1), at which ids are masked with probability t; their nats over t."""
    data, n, draws = batch_of(3), 3, 5
    place, seeds = list(data).index(name), row_seeds(2, n)
    numbers, shape = numpy(uniform(seeds, (draws,))), data[name].shape[1:]
    each = []
    for i in range(draws):
        t = (i + numbers[:, i]) / draws
        masked = numpy(uniform(split(seeds, 3)[:, place], shape, stream=i + 1)) < t.reshape(-1, *[1] * len(shape))
        tokens = {"picture": data["picture"], name: np.where(masked, mask, data[name])}
        levels = {"picture": np.zeros(n, "float32"), name: t}
        p = numpy(ops.softmax(generator.network(*tensors((tokens, levels)))[name]))
        nats = -np.log(np.take_along_axis(p, data[name][..., None], axis=-1))[..., 0]
        each.append(np.where(masked, nats, 0.0).reshape(n, -1).sum(1) / t)
    found = generator.score({name: data[name]}, {"picture": data["picture"]}, num_draws=draws, seed=2)
    np.testing.assert_allclose(found["bound"], np.mean(each, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["standard_error"], np.std(each, axis=0) / 2, rtol=1e-3)  # the root of draws - 1


def test_embed_is_the_mean_of_the_tokens(generator):
    data = batch_of(4)
    one = generator.embed({"word": data["word"]})
    both = generator.embed({"word": data["word"], "picture": data["picture"]})
    assert one.shape == both.shape == (4, 16) and np.abs(one - both).max() > 1e-3
    np.testing.assert_allclose(generator.embed({"word": data["word"][:2]}), one[:2], atol=1e-6)


QUESTIONS = {  # of rows, with the seeds of these
    "classify": lambda g, d, seed: {"label": g.classify({"picture": d["picture"]}, "label")},
    "embed": lambda g, d, seed: {"mean": g.embed({"picture": d["picture"], "label": d["label"]})},
    "score": lambda g, d, seed: g.score({"sound": d["sound"]}, {"label": d["label"]}, num_draws=3, seed=seed),
    "losses": lambda g, d, seed: g.losses({"picture": d["picture"]}, 0.6, {"label": d["label"]}, seed=seed),
    "attention": lambda g, d, seed: {"map": g.attention(d, "picture", "sound", 0.6, seed=seed)},
    "trajectory": lambda g, d, seed: {
        f"{name} {i}": x
        for name, steps in g.trajectory({"label": d["label"]}, seed=seed).items()
        for i, x in enumerate(steps)
    },
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_an_answer_does_not_depend_on_the_batch(ask):
    picture, _, sound = modalities()
    mods = [picture, sound, Modality("label", LabelTokenizer(3))]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
    data = {**batch_of(5), "label": np.array([0, 2, 1, 1, 0], "int32")}
    del data["word"]
    rows, seeds = np.array([3, 1]), np.random.RandomState(0).randint(0, 99, (5, 2)).astype("int32")
    whole = ask(generator, data, seeds)
    part = ask(generator, {name: x[rows] for name, x in data.items()}, seeds[rows])
    assert whole.keys() == part.keys()
    for name, x in part.items():
        assert len(whole[name]) == 5 and np.abs(whole[name][3] - whole[name][1]).max() > 0
        np.testing.assert_allclose(x, whole[name][rows], rtol=1e-5, atol=1e-5, err_msg=name)
