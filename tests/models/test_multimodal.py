"""The model of several modalities that is trained."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, assert_close, awake, batch_of, losses_of, make, modalities, tensors

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.data import ArrayDataset
from keras_mmai.diffusion import (
    GaussianDiffusion,
    LogitNormalTimes,
    MaskedAncestral,
    MaskedDiffusion,
)
from keras_mmai.tokenizers import PassThrough

numpy = ops.convert_to_numpy


def test_each_task_gives_its_losses_and_no_others():
    model = make()
    for place, (_, want) in enumerate(model.tasks.values()):
        out = model({**tensors(batch_of(16)), "task": np.full(16, place, "int32")})
        for name in ("picture", "word", "sound"):
            assert numpy(out[name]["wanted"]).all() == (name in want)
            t = numpy(out[name]["t"])
            assert (t > 0).all() if name in want else (t == 0).all()
        losses = {name: numpy(loss) for name, loss in losses_of(model, out).items()}
        assert {name for name, loss in losses.items() if (loss > 0).any()} == set(want)


def test_losses_are_those_of_the_processes():
    model = make()
    batch = batch_of(6, given=True)
    batch["task"] = np.full(6, list(TASKS).index("all"), "int32")
    out = model(tensors(batch))
    losses = losses_of(model, out)
    for name, process in (
        ("picture", GaussianDiffusion()),
        ("word", MaskedDiffusion(6)),
        ("sound", MaskedDiffusion(5)),
    ):
        _, target = process.corrupt(batch[name], batch["t"][name], batch["noise"][name])
        expected = process.loss(out[name]["output"], target, batch["t"][name])
        np.testing.assert_allclose(numpy(losses[name]), numpy(expected), rtol=1e-5)


def test_times_are_shared_or_independent():
    for share, expected in ((0.0, True), (1.0, False)):
        model = make(independent_times=share)
        out = model({**tensors(batch_of(16)), "task": np.full(16, list(TASKS).index("all"), "int32")})
        t = np.stack([numpy(out[name]["t"]) for name in ("picture", "word", "sound")])
        assert (t[0] == t[1]).all() == (t[0] == t[2]).all() == expected
        assert t.min() > 0 and t.max() < 1
        strata = np.floor(16 * t[1:])  # of the two whose noise levels are uniform
        assert (np.sort(strata) == np.arange(16)).all() and (np.diff(strata) < 0).any()  # whatever the rows' order
    assert (strata[0] != strata[1]).any()


def test_tasks_are_drawn():
    model = make()
    out = model(tensors(batch_of(64)))
    roles = np.stack([numpy(out[name]["wanted"])[:, 0] for name in ("picture", "word", "sound")], 1)
    assert len(np.unique(roles, axis=0)) == len({want for _, want in TASKS.values()})


def test_some_tokens_are_known():
    """They are clean, at noise level 0, without a loss; at random places or from the beginning on."""
    model = make(partly_known=1.0)
    batch = {**batch_of(200), "task": np.zeros(200, "int32")}
    out = model(tensors(batch))
    learned = numpy(out["sound"]["wanted"])
    known = ~learned
    assert 0.3 < known.mean() < 0.7
    from_start = (np.diff(known.astype(int), axis=1) <= 0).all(1)
    assert 0.5 < from_start.mean() < 0.95  # some rows at random are so, too
    losses = numpy(losses_of(model, out)["sound"])
    assert (losses[known.all(1)] == 0).all()
    none = make(partly_known=0.0)(tensors(batch))
    assert numpy(none["sound"]["wanted"]).all()


def test_which_tokens_are_known_may_be_said():
    """Of what is generated; of other modalities it is drawn, and where a modality is given it changes nothing."""
    model = make(partly_known=0.0)
    flags = np.random.RandomState(0).uniform(size=(8, *model.network.spaces["picture"].grid)) < 0.5
    batch = batch_of(8, given=True)
    places = {name: np.full(8, list(TASKS).index(name), "int32") for name in TASKS}
    out = model(tensors({**batch, "known": {"picture": flags}, "task": places["all"]}))
    np.testing.assert_array_equal(numpy(out["picture"]["wanted"]), ~flags.reshape(8, -1))
    assert numpy(out["word"]["wanted"]).all()
    # what is known is clean: other noise at its place changes nothing
    other = {**batch, "noise": dict(batch["noise"])}
    spread = numpy(model.network.spaces["picture"].spread(ops.convert_to_tensor(flags)))
    other["noise"]["picture"] = np.where(spread, 9.0, batch["noise"]["picture"]).astype("float32")
    again = model(tensors({**other, "known": {"picture": flags}, "task": places["all"]}))
    np.testing.assert_array_equal(numpy(again["picture"]["output"]), numpy(out["picture"]["output"]))
    given = next(name for name, (given, _) in TASKS.items() if "picture" in given)
    batch["task"] = places[given]
    plain, told = (model(tensors(x)) for x in (batch, {**batch, "known": {"picture": flags}}))
    for name in plain:
        np.testing.assert_array_equal(numpy(told[name]["output"]), numpy(plain[name]["output"]))


def test_times_are_those_of_the_process():
    late = GaussianDiffusion(times=LogitNormalTimes(3.0, 0.1))
    mods = [Modality("x", PassThrough((4, 2)), process=late), Modality("y", PassThrough((3,), 5))]
    network = awake(MultimodalDiT(mods, **SMALL))
    model = MultimodalDiffusionTransformer(mods, network, {"all": ((), ("x", "y"))}, independent_times=0.0, seed=0)
    batch = {"x": np.ones((32, 4, 2), "float32"), "y": np.ones((32, 3), "int32")}
    out = model(tensors(batch))
    t, u = numpy(out["x"]["t"]), numpy(out["y"]["t"])
    np.testing.assert_allclose(t, numpy(late.times(u)), atol=1e-5)
    assert t.min() > 0.9 and u.min() < 0.1


def test_the_loss_shown_is_the_mean_over_examples_that_generate():
    model = make(tasks={"word": ((), ("word",)), "picture": (("word",), ("picture",))})
    model.compile("sgd", run_eagerly=True)
    batch = batch_of(8, given=True)
    batch["task"] = np.array([0, 0, 0, 0, 0, 0, 0, 1], "int32")
    shown = [model.evaluate(batch, batch_size=n, verbose=0, return_dict=True)["picture"] for n in (1, 2, 8)]
    np.testing.assert_allclose(shown, shown[-1], rtol=1e-5)
    assert shown[0] > 0.1


def test_what_no_task_wants_is_not_learned():
    model = make(tasks={"picture_to_word": (("picture",), ("word",))})
    model.compile("sgd", run_eagerly=True)
    assert "word" in model.trackers and not {"picture", "sound"} & set(model.trackers)
    shown = model.evaluate(batch_of(4, given=True), verbose=0, return_dict=True)
    assert np.isfinite([shown["loss"], shown["word"]]).all() and not {"picture", "sound"} & set(shown)
    # nor where the word is missing
    batch = {**batch_of(4, given=True), "present": {"word": np.zeros(4, bool)}}
    out = model(tensors(batch))
    assert not numpy(out["picture"]["wanted"]).any() and not numpy(out["sound"]["wanted"]).any()
    assert model.evaluate(batch, verbose=0, return_dict=True)["loss"] == 0
    with pytest.raises(ValueError, match=r"needs one of \['word'\], which tasks want"):
        model(tensors({"picture": batch["picture"]}))


@pytest.mark.parametrize("streams", ["shared", "separate"])
def test_gradients_reach_every_weight(streams, gradients):
    model = make(streams=streams)
    batch = tensors({**batch_of(6, given=True), "task": np.full(6, list(TASKS).index("all"), "int32")})

    def loss():
        return sum(ops.mean(x) for x in losses_of(model, model(batch, training=True)).values())

    _, found = gradients(loss, (), model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, found):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_evaluate_draws_the_same_every_time_and_moves_no_draw_of_the_training():
    """Else a callback would choose the epoch with the easiest noise."""

    def fitted(validation):
        model = make(ema_decays=(0.9,))
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        options = dict(batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model, model.fit(batch_of(8), validation_data=validation, **options).history

    model, history = fitted(batch_of(6))
    again = [model.evaluate(batch_of(6), batch_size=4, verbose=0, return_dict=True)["loss"] for _ in range(2)]
    assert again[0] == again[1] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    other, alone = fitted(None)
    np.testing.assert_allclose(history["loss"], alone["loss"], rtol=1e-6)
    np.testing.assert_array_equal(numpy(model.seed_generator.state), numpy(other.seed_generator.state))


def test_weights_scale_losses():
    batch = {**batch_of(4, given=True), "task": np.full(4, list(TASKS).index("all"), "int32")}
    plain, weighted = make(), make(weights={"word": 3.0})
    for to, by in zip(weighted.network.weights, plain.network.weights):
        to.assign(by)
    losses = [losses_of(m, m(tensors(batch))) for m in (plain, weighted)]
    np.testing.assert_allclose(3 * numpy(losses[0]["word"]), numpy(losses[1]["word"]), rtol=1e-5)
    np.testing.assert_allclose(numpy(losses[0]["sound"]), numpy(losses[1]["sound"]), rtol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_text_alone_is_mdlm(eps):
    """The loss is their definition on the same masks and times, from the same logits."""
    mods = [Modality("text", PassThrough((7,), 6))]
    model = MultimodalDiffusionTransformer(mods, awake(MultimodalDiT(mods, **SMALL)), seed=0)
    x = np.random.RandomState(0).randint(0, 6, (4, 7)).astype("int32")
    t = np.array([0.1, 0.3, 0.6, 0.9])
    noise = np.random.RandomState(1).rand(4, 7).astype("float32")
    out = model({"text": x, "t": {"text": ((1 - eps) * t).astype("float32")}, "noise": {"text": noise}})["text"]
    logits = numpy(out["output"]).astype("float64")
    log_p = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), x[..., None].astype(int), -1)
    sigma, d_sigma = -np.log1p(-(1 - eps) * t), (1 - eps) / (1 - (1 - eps) * t)
    masked = (1 - np.exp(-sigma))[:, None] > noise
    expected = np.mean(-(d_sigma / np.expm1(sigma))[:, None] * log_p[..., 0] * masked, axis=1) / (1 - eps)
    out = {"text": {**out, "t": ((1 - eps) * t).astype("float32")}}
    np.testing.assert_allclose(numpy(losses_of(model, out)["text"]), expected, rtol=1e-5)


@pytest.mark.slow
def test_eight_examples_are_learned_by_heart():
    steps = 1000
    mods = modalities()
    network = MultimodalDiT(mods, hidden_dim=64, num_layers=2, num_heads=4)
    model = MultimodalDiffusionTransformer(mods, network, TASKS, seed=0, partly_known=0.0, ema_decays=(0.98,))
    data = batch_of(8)
    data["word"][:, 0], data["word"][:, 1] = np.arange(8) % 6, np.arange(8) // 6  # all different
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)))
    rows = {name: np.tile(x, (8 * 50, *[1] * (x.ndim - 1))) for name, x in data.items()}
    model.fit(ArrayDataset(rows, batch_size=64, shuffle=False), epochs=steps // 50, verbose=0)
    surest = MaskedAncestral(temperature=0.2)
    generator = model.generator({"word": surest, "sound": surest}, num_steps=20)
    out = generator.generate({"word": data["word"]}, seed=1)
    np.testing.assert_array_equal(out["sound"], data["sound"])
    distance = np.sqrt(np.square(out["picture"][:, None] - data["picture"][None]).mean((2, 3, 4)))
    np.testing.assert_array_equal(distance.argmin(1), np.arange(8))
    assert np.diag(distance).max() < 0.15  # two pictures are at least 0.7 from each other
    back = generator.generate({"picture": data["picture"], "sound": data["sound"]}, seed=1)
    np.testing.assert_array_equal(back["word"], data["word"])
    together = generator.generate(num_samples=64, seed=1)  # each of the triples, and hardly a mixture of two
    distance = np.sqrt(np.square(together["picture"][:, None] - data["picture"][None]).mean((2, 3, 4)))
    which = distance.argmin(1)
    assert len(set(which)) == 8 and np.mean(distance.min(1) < 0.2) > 0.9
    for name in ("word", "sound"):
        assert np.mean((together[name] == data[name][which]).all(1)) > 0.8


def test_tasks_are_drawn_by_their_weights():
    weights = {"all": 0.0, "picture_to_word": 3.0, "word_to_rest": 0.0, "rest_to_word": 1.0}
    model = make(task_weights=weights)
    wanted = {name: numpy(one["wanted"]).any(1) for name, one in model(tensors(batch_of(2000))).items()}
    assert wanted["word"].all() and not wanted["picture"].any() and not wanted["sound"].any()
    assert "word" in model.trackers and "sound" not in model.trackers
    roles = numpy(model._draws.role("sound", model._draws.task(2000)))
    assert set(roles) == {1, 2} and abs(np.mean(roles == 2) - 0.75) < 0.05  # absent, and not given
    with pytest.raises(ValueError, match="`want`: no task has 'picture' wanted"):  # what has weight 0 is not trained
        make(task_weights={**weights, "rest_to_word": 0.0}).generator().generate(want=["picture"])
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"tasks that are learned. Received: \['all'\], of weight 0"):
        model.fit({**batch_of(4), "task": np.array([1, 0, 3, 3], "int32")}, verbose=0)
    draws = make(task_weights={"all": 0.0})._draws
    assert set(numpy(draws.role("word", draws.task(99)))) == {0, 1}


def test_noise_levels_of_tokens():
    model, batch = make(), batch_of(6, given=True)
    batch["task"] = np.zeros(6, "int32")
    grids = {"picture": (2, 2), "word": (3,), "sound": (4,)}
    alike = {
        name: np.ones((6, *grid), "float32") * t.reshape(-1, *[1] * len(grid))
        for (name, grid), t in zip(grids.items(), batch["t"].values())
    }
    whole = model(tensors(batch))
    out = model(tensors({**batch, "t": alike}))
    assert_close(losses_of(model, out), losses_of(model, whole))
    random = np.random.RandomState(1)
    own = {name: random.uniform(0.2, 0.9, t.shape).astype("float32") for name, t in alike.items()}
    out = model(tensors({**batch, "t": own}))
    noisy = own["word"] > batch["noise"]["word"]
    np.testing.assert_array_equal(numpy(out["word"]["target"]), np.where(noisy, batch["word"], -1))
    log_p = numpy(ops.log_softmax(out["word"]["output"], axis=-1))
    log_p = np.take_along_axis(log_p, batch["word"][..., None], axis=-1)[..., 0]
    expected = np.where(noisy, -log_p / own["word"], 0.0).mean(1)
    np.testing.assert_allclose(numpy(losses_of(model, out)["word"]), expected, rtol=1e-4)
    levels = own["picture"].repeat(2, 1).repeat(2, 2)[..., None]  # of patches of 2 x 2
    velocity = batch["noise"]["picture"] - batch["picture"]
    np.testing.assert_allclose(numpy(out["picture"]["target"]), velocity, atol=1e-6)
    noised = {name: (1 - levels) * batch[name] + levels * batch["noise"][name] for name in ["picture"]}
    noised["word"] = np.where(noisy, 6, batch["word"])
    noised["sound"] = np.where(own["sound"][..., None] > batch["noise"]["sound"], 5, batch["sound"])
    again = model.network(tensors(noised), {name: t.reshape(6, -1) for name, t in own.items()})
    assert_close(again, {name: out[name]["output"] for name in again})


def test_noise_levels_that_are_none():
    model, batch = make(), batch_of(6, given=True)
    model.compile("adam")
    t = batch["t"]
    for changed, message in (
        ({"word": t["word"]}, "also of 'picture'"),
        ({**t, "word": np.ones((6, 2), "float32")}, "also of 'word'"),
        ({**t, "sound": 7.0 * t["sound"]}, "'sound' is of noise levels in"),
        ({**t, "sound": np.nan * t["sound"]}, "'sound' is of noise levels in"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit({**batch, "t": changed}, batch_size=6, verbose=0)
