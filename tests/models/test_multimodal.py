import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, awake, batch_of, make, modalities
from small_models import heavy

from keras_mmai import DiT, Modality, MultimodalDiffusionTransformer, MultimodalDiT
from keras_mmai.data import ArrayDataset
from keras_mmai.diffusion import (
    GaussianDiffusion,
    LogitNormalTimes,
    MaskedAncestral,
    MaskedDiffusion,
    UniformTimes,
    VPCosine,
)
from keras_mmai.models import TokenSpace
from keras_mmai.tokenizers import LabelTokenizer, LosslessTokenizer, PassThrough

numpy = ops.convert_to_numpy


class Shifted(LosslessTokenizer):
    def __init__(self, token_shape):
        super().__init__(token_shape)
        self.latent_shape = self.token_shape

    def encode(self, x):
        return np.asarray(x, "float32") - 100.0

    def decode(self, tokens):
        return np.asarray(tokens) + 100.0


def tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def assert_close(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(numpy(one[name]), numpy(other[name]), rtol=1e-5, atol=atol, err_msg=name)


def losses_of(model, out):
    return {name: loss for name, (loss, _) in model.named_losses(None, out).items()}


@pytest.fixture(params=["shared", "separate"])
def network(request):
    return awake(MultimodalDiT(modalities(), streams=request.param, **SMALL))


@pytest.fixture
def tokens():
    return {name: batch_of(5)[name] for name in ("picture", "word", "sound")}


def times(value=0.5):
    return dict.fromkeys(("picture", "word", "sound"), np.full(5, value, "float32"))


# The network


def test_shapes(network, tokens):
    outputs = network(tensors(tokens), times())
    shapes = {name: tuple(x.shape) for name, x in outputs.items()}
    assert shapes == {"picture": (5, 4, 4, 2), "word": (5, 3, 6), "sound": (5, 4, 2, 5)}
    assert network.compute_output_shape({name: x.shape for name, x in tokens.items()}) == shapes
    assert all(keras.backend.standardize_dtype(x.dtype) == "float32" for x in outputs.values())


def test_a_label_as_condition_makes_it_a_dit():
    spaces = {"x": TokenSpace((4, 4, 2), patch_size=2), "y": TokenSpace((1,), 3, adaln=True)}
    network = awake(MultimodalDiT(spaces, **{**SMALL, "qk_norm": False}))
    dit = DiT((4, 4, 2), patch_size=2, num_classes=3, positions="rotary", label_dropout=0.0, **SMALL)
    network.modality_table.assign(np.zeros(network.modality_table.shape))
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


def test_padding_equals_cropping():
    longer, shorter = ({"word": TokenSpace((n,), 6), "x": TokenSpace((4, 2))} for n in (5, 3))
    network, cropped = (awake(MultimodalDiT(spaces, **SMALL)) for spaces in (longer, shorter))
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
    rotary = MultimodalDiT(spaces, **SMALL)._rotary
    np.testing.assert_array_equal(rotary["fast"][0][::2], rotary["slow"][0])
    assert TokenSpace((3, 2, 2), 4, rate=2.0).coordinates(8.0).tolist()[4:6] == [[4, 0, 0], [4, 0, 1]]


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


# The model that is trained


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


def test_absent_nan_reaches_no_gradient(gradients):
    model = make()
    batch = {**batch_of(4, given=True), "task": np.zeros(4, "int32")}
    batch["present"] = {"picture": np.array([True, False, True, True])}
    batch["picture"][1] = np.nan

    def loss():
        return sum(ops.mean(x) for x in losses_of(model, model(tensors(batch), training=True)).values())

    value, found = gradients(loss, (), model.trainable_variables)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in found)


def test_a_signal_of_ones_own_may_look_like_tokens():
    """Readings are encoded once: not left as they are, and not twice."""
    mods = [Modality("readings", Shifted((4, 2)))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    x = np.full((3, 4, 2), 100.0, "float32")
    tokens = model.precompute({"readings": x})
    assert (tokens["readings"] == 0).all() and (model.precompute(tokens)["readings"] == 0).all()
    np.testing.assert_allclose(model.generator().decode(tokens)["readings"], x)


def test_missing_modalities():
    """A modality that a row lacks has no loss, and what it holds changes nothing; where nothing wanted is left, the
    row learns what it has."""
    model = make(independent_times=0.0)
    batch = batch_of(6, given=True)
    batch["task"] = np.full(6, list(TASKS).index("picture_to_word"), "int32")
    batch["present"] = {"word": np.arange(6) < 3, "sound": np.zeros(6, bool)}
    out = model(tensors(batch))
    assert numpy(out["word"]["wanted"]).all(axis=1).tolist() == [True] * 3 + [False] * 3
    assert numpy(out["picture"]["wanted"]).all(axis=1).tolist() == [False] * 3 + [True] * 3
    other = {**batch, "word": batch["word"].copy(), "sound": (batch["sound"] + 1) % 5}
    other["word"][3:] = 0
    changed = model(tensors(other))
    for name in ("word", "picture"):
        losses = [numpy(losses_of(model, x)[name]) for x in (out, changed)]
        np.testing.assert_array_equal(*losses)
        # the mean over the batch is that over the rows that generate it
        rows = [0, 1, 2] if name == "word" else [3, 4, 5]
        subset = keras.tree.map_structure(lambda x, rows=rows: x[rows], batch)
        alone = numpy(losses_of(model, model(tensors(subset)))[name])
        np.testing.assert_allclose(losses[0].mean(), alone.mean(), rtol=1e-5)


def test_a_batch_without_a_modality_is_one_where_it_is_absent():
    model = make()
    batch = {**batch_of(4, given=True), "task": np.full(4, list(TASKS).index("all"), "int32")}
    absent = {**batch, "present": {"sound": np.zeros(4, bool)}}
    out = model(tensors(absent))
    del batch["sound"]
    left_out = model(tensors(batch))
    assert "sound" not in left_out
    for name in left_out:
        np.testing.assert_allclose(numpy(left_out[name]["output"]), numpy(out[name]["output"]), rtol=1e-5, atol=1e-6)


def test_an_example_without_anything_changes_nothing(gradients):
    model = make()
    batch = {**batch_of(3, given=True), "task": np.zeros(3, "int32")}
    batch["present"] = {name: np.array([True, False, True]) for name in ("picture", "word", "sound")}
    full = keras.tree.map_structure(lambda x: x[[0, 2]], batch)

    def loss(batch):
        return lambda: sum(ops.mean(x) for x in losses_of(model, model(tensors(batch), training=True)).values())

    (one, by_all), (other, by_two) = (gradients(loss(b), (), model.trainable_variables) for b in (batch, full))
    assert one == pytest.approx(other, rel=1e-5)
    for a, b in zip(by_all, by_two):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_padding_of_a_text_has_no_loss():
    model = make()
    batch = {**batch_of(4, given=True), "task": np.full(4, list(TASKS).index("all"), "int32")}
    here = np.arange(3) < np.array([[3], [2], [1], [2]])
    batch["present"] = {"word": here}
    out = model(tensors(batch))["word"]
    losses = numpy(MaskedDiffusion(6).token_losses(out["output"], out["target"], out["t"])) * here
    expected = losses.sum(1) / here.sum(1)
    np.testing.assert_allclose(numpy(losses_of(model, {"word": out})["word"]), expected, rtol=1e-5)


def test_gradients_reach_every_weight(gradients):
    model = make()
    batch = tensors({**batch_of(6, given=True), "task": np.full(6, list(TASKS).index("all"), "int32")})

    def loss():
        return sum(ops.mean(x) for x in losses_of(model, model(batch, training=True)).values())

    _, found = gradients(loss, (), model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, found):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


@heavy
def test_fit_takes_signals_and_computes_their_tokens_once(capsys):
    names = ["zero", "one", "two"]
    mods = [Modality("picture", PassThrough((4, 2))), Modality("name", LabelTokenizer(names))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    model.compile("adam", run_eagerly=True)
    data = {"picture": np.ones((6, 4, 2), "float32"), "name": ["one", "two", "zero"] * 2}
    history = model.fit(data, batch_size=3, epochs=1, verbose=0, validation_data=data).history
    assert set(history) >= {"picture", "name", "val_picture", "val_name"}
    np.testing.assert_array_equal(model.precompute(data)["name"][:, 0], [1, 2, 0, 1, 2, 0])


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
    network = MultimodalDiT(mods, **{**SMALL, "hidden_dim": 48})
    plain = dict(independent_times=0.0, partly_known=0.0, ema_decays=(0.98,))
    model = MultimodalDiffusionTransformer(mods, network, TASKS, seed=0, **plain)
    data = batch_of(8)
    data["word"][:, 0], data["word"][:, 1] = np.arange(8) % 6, np.arange(8) // 6  # all different
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, steps)))
    rows = {name: np.repeat(x, 8, axis=0) for name, x in data.items()}
    model.fit(ArrayDataset(rows, batch_size=64), epochs=steps, verbose=0)
    surest = MaskedAncestral(temperature=0.2)
    generator = model.generator({"word": surest, "sound": surest}, num_steps=20)
    out = generator.generate({"word": data["word"]}, seed=1)
    np.testing.assert_array_equal(out["sound"], data["sound"])
    distance = np.square(out["picture"][:, None] - data["picture"][None]).sum((2, 3, 4))
    assert np.mean(distance.argmin(1) == np.arange(8)) >= 7 / 8  # of latents the flow is not exact after so few steps
    back = generator.generate({"picture": data["picture"], "sound": data["sound"]}, seed=1)
    np.testing.assert_array_equal(back["word"], data["word"])


# What is refused


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Modality("two words", PassThrough((4, 2))), "letters"),
        (lambda: Modality("a_to_b", PassThrough((4, 2))), "_to_"),
        (lambda: Modality("noise", PassThrough((4, 2))), "another than"),
        (lambda: Modality("x", PassThrough((4, 2)), weight=0.0), "weight"),
        (lambda: Modality("x", PassThrough((4, 2)), rate=-1.0), "rate"),
        (lambda: Modality("x", PassThrough((4, 2)), tokens="codes"), "latents"),
        (lambda: Modality("x", PassThrough((4, 2)), process=MaskedDiffusion(4)), "GaussianDiffusion"),
        (lambda: Modality("x", PassThrough((4,), 5), process=MaskedDiffusion(4)), "vocabulary 5"),
        (lambda: TokenSpace((4, 4, 4, 4, 2)), "axes"),
        (lambda: TokenSpace((4, 4), 5, patch_size=2), "patch_size"),
        (lambda: TokenSpace((4,), 5, adaln=True), "adaln"),
        (lambda: TokenSpace((4,), 5, rate=0.0), "rate"),
        (lambda: MultimodalDiT({"y": TokenSpace((1,), 5, adaln=True)}, **SMALL), "nothing that is generated"),
        (lambda: MultimodalDiT(modalities(), hidden_dim=10, num_heads=4), "num_heads"),
        (lambda: MultimodalDiT(modalities(), streams="none", **SMALL), "streams"),
        (lambda: MultimodalDiffusionTransformer([]), "modalities"),
        (lambda: MultimodalDiffusionTransformer(modalities()[:1] * 2), "different names"),
        (lambda: make(tasks={"a": (("smell",), ("word",))}), "smell"),
        (lambda: make(tasks={"a": (("word",), ())}), "wanted"),
        (lambda: make(tasks={"a": (("word",), ("word",))}), "given is not wanted"),
        (lambda: make(tasks={"a": ("word", "picture")}), "two tuples"),
        (lambda: make(independent_times=2.0), "independent_times"),
        (lambda: make(partly_known=-1.0), "partly_known"),
        (
            lambda: MultimodalDiffusionTransformer(modalities(), MultimodalDiT(modalities()[:2], **SMALL)),
            "other modalities",
        ),
    ],
)
def test_what_can_not_be_built(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d.update(smell=np.ones(4)), "smell"),
        (lambda d: d.update(word=d["word"][:2]), "rows"),
        (lambda d: d.update(word=d["word"] + 5), "0..5"),
        (lambda d: d.update(picture=d["picture"][:, :2]), r"\('b', 4, 4, 2\)"),
        (lambda d: d.update(picture=d["picture"] * np.nan), "finite"),
        (lambda d: d.update(present={"smell": np.ones(4, bool)}), "smell"),
        (lambda d: d.update(present={"word": np.ones((4, 2), bool)}), r"\(b, 3\)"),
        (lambda d: d.update(present={"word": np.ones(3, bool)}), "rows"),
        (lambda d: d.update(task=np.full(4, 4)), "task"),
        (lambda d: d.update(task=np.zeros(3, int)), "rows"),
        (lambda d: d.update(t={"smell": np.zeros(4)}), "smell"),
        (lambda d: d.update(present={"word": np.ones(4)}), "bool"),
        (lambda d: [d.pop(name) for name in ("picture", "word", "sound")], "none of the modalities"),
    ],
)
def test_what_fit_refuses(change, words):
    data = batch_of(4)
    change(data)
    model = make()
    model.compile("adam")
    with pytest.raises(ValueError, match=words):
        model.fit(data, verbose=0)


def test_processes_and_schedules_are_free():
    process = GaussianDiffusion(VPCosine(), "v", UniformTimes())
    assert Modality("x", PassThrough((4, 2)), process=process).process == process
