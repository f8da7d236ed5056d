import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, awake, batch_of, make, modalities
from small_models import heavy

from keras_mmai import VAE, VQVAE, Modality, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import (
    Ancestral,
    Euler,
    Heun,
    LogitNormalTimes,
    MaskedAncestral,
    MaskedDiffusion,
    MaskGIT,
    normal,
    uniform_times,
)
from keras_mmai.layers import VectorQuantizer
from keras_mmai.noise import row_seeds, split
from keras_mmai.tokenizers import ByteTokenizer, CharacterTokenizer, LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


@pytest.fixture(scope="module")
def generator():
    return make().generator(num_steps=4)


@pytest.fixture
def given():
    return {"word": batch_of(5)["word"]}


def test_every_task_gives_what_is_wanted(generator):
    for given, want in TASKS.values():
        out = generator.generate({name: batch_of(3)[name] for name in given}, want=want, num_samples=3)
        assert set(out) == set(want)
        for name, x in out.items():
            assert x.shape == batch_of(3)[name].shape and x.dtype == batch_of(3)[name].dtype
            assert np.isfinite(x).all()


def test_a_row_depends_on_its_seed_and_what_it_is_given_alone(generator, given):
    out = generator.generate(given, seed=3)
    seeds = np.array([[3, 4], [3, 1]], "int32")
    part = generator.generate({"word": given["word"][[4, 1]]}, seed=seeds)
    batches = generator.generate(given, seed=3, batch_size=2)
    other = generator.generate(given, seed=4)
    for name in out:
        np.testing.assert_allclose(part[name], out[name][[4, 1]], atol=1e-5)
        np.testing.assert_allclose(batches[name], out[name], atol=1e-5)
        assert np.abs(other[name] - out[name]).max() > 0
    assert np.abs(out["picture"][0] - out["picture"][1]).max() > 1e-2


def test_the_order_of_what_is_given_and_wanted_does_not_matter(generator):
    data = batch_of(3)
    one = generator.generate({"word": data["word"]}, want=["picture", "sound"])
    other = generator.generate({"word": data["word"]}, want=["sound", "picture"])
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_latents_alone_are_those_of_the_sampler(generator, given):
    """One modality of latents: Euler on the network's velocity, from the row's own noise."""
    network = generator.network
    place = list(dict.fromkeys(m.name for m in generator.modalities)).index("picture")
    seeds = split(row_seeds(0, 5), 3)[:, place]
    x = normal(seeds, (4, 4, 2))
    word = ops.convert_to_tensor(given["word"])
    for t, s in zip(uniform_times(4)[:-1], uniform_times(4)[1:]):
        levels = {"word": np.zeros(5, "float32"), "picture": np.full(5, t)}
        x = x + (s - t) * network({"word": word, "picture": x}, levels)["picture"]
    np.testing.assert_allclose(generator.generate(given, want=["picture"])["picture"], numpy(x), atol=1e-4)


def test_guidance(generator, given):
    """output + (scale - 1) (output - output without what guides), for each of two that are given."""
    data = batch_of(5)
    two = {"word": data["word"], "sound": data["sound"]}
    plain = generator.generate(two, want=["picture"], steps=1)["picture"]
    ones = generator.generate(two, want=["picture"], steps=1, guidance=1.0)["picture"]
    np.testing.assert_array_equal(ones, plain)
    without = {
        name: generator.generate({k: v for k, v in two.items() if k != name}, want=["picture"], steps=1)["picture"]
        for name in two
    }
    # one step of Euler ends at x_1 - velocity, of which the guided one is a linear combination
    for scales in ({"word": 3.0}, {"word": 2.0, "sound": 1.5}):
        expected = plain + sum((scale - 1) * (plain - without[name]) for name, scale in scales.items())
        found = generator.generate(two, want=["picture"], steps=1, guidance=scales)["picture"]
        np.testing.assert_allclose(found, expected, atol=2e-4)
    both = generator.generate(two, want=["picture"], steps=1, guidance=2.0)["picture"]
    np.testing.assert_allclose(both, plain + sum(plain - x for x in without.values()), atol=2e-4)


def test_known_tokens_stay_and_the_others_are_generated(generator):
    data = batch_of(5)
    known = {"picture": np.array([[True, False], [False, True]]), "sound": np.arange(4) < 2}
    out = generator.generate(data, want=["picture", "sound"], known=known, seed=1)
    patches = np.kron(known["picture"], np.ones((2, 2))) > 0
    np.testing.assert_array_equal(out["picture"][:, patches], data["picture"][:, patches])
    assert (np.abs(out["picture"] - data["picture"])[:, ~patches] > 1e-3).all()
    np.testing.assert_array_equal(out["sound"][:, :2], data["sound"][:, :2])
    assert (out["sound"][:, 2:] != data["sound"][:, 2:]).any()


def timeless(network):
    """What it says of one masked token does not depend on how likely it was to be masked."""
    awake(network)
    for weight in network.time_embed.weights:
        weight.assign(np.zeros(weight.shape))
    return network


def test_what_is_not_present_changes_nothing(generator):
    data, here = batch_of(4), np.arange(3) < np.array([[1], [2], [3], [0]])
    other = {"word": np.where(here, data["word"], (data["word"] + 1) % 6)}
    for call in (
        lambda given: generator.generate(given, ["picture"], present={"word": here}, guidance=2.0)["picture"],
        lambda given: generator.embed(given, present={"word": here}),
        lambda given: generator.score({"sound": data["sound"]}, given, present={"word": here}, num_draws=4)["bound"],
    ):
        np.testing.assert_array_equal(call({"word": data["word"]}), call(other))
    alone = generator.generate(want=["picture"], num_samples=4)["picture"]
    whole = generator.generate({"word": data["word"]}, ["picture"])["picture"]
    for here, expected in ((np.zeros(4, bool), alone), (np.ones((4, 3), bool), whole)):
        found = generator.generate({"word": data["word"]}, ["picture"], present={"word": here})["picture"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_guidance_is_by_what_is_not_generated(generator):
    """What is inpainted does not guide itself."""
    data, known = batch_of(4), {"picture": np.array([[True, False], [False, True]])}
    given = {"word": data["word"], "picture": data["picture"]}
    one, other = (generator.generate(given, ["picture"], known, guidance=g) for g in (2.0, {"word": 2.0}))
    np.testing.assert_array_equal(one["picture"], other["picture"])


def test_score_leaves_out_what_is_not_present(generator):
    data, here = batch_of(4), np.arange(3) < 2
    here = np.broadcast_to(here, (4, 3))
    other = np.where(here, data["word"], (data["word"] + 1) % 6)
    one, same = (
        generator.score({"word": x}, present={"word": here}, num_draws=8)["bound"] for x in (data["word"], other)
    )
    np.testing.assert_array_equal(one, same)
    assert (one < generator.score({"word": data["word"]}, num_draws=8)["bound"] + 50).all() and (one > 0).any()


def test_score_does_not_depend_on_the_times_of_training():
    mods = [
        Modality("x", PassThrough((3,), 5)),
        Modality("x", PassThrough((3,), 5), process=MaskedDiffusion(5, times=LogitNormalTimes())),
    ]
    network = awake(MultimodalDiT(mods[:1], **SMALL))
    x = np.array([[0, 1, 2], [3, 4, 0]], "int32")
    bounds = [MultimodalGenerator(network, [m]).score({"x": x}, num_draws=4)["bound"] for m in mods]
    np.testing.assert_array_equal(*bounds)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_what_was_not_learned_can_not_be_asked_for():
    model = make(tasks={"a": (("word",), ("picture",))})
    generator, data = model.generator(num_steps=2), batch_of(2)
    for ask in (
        lambda: generator.generate({"picture": data["picture"]}, ["word"]),
        lambda: generator.generate({"word": data["word"], "sound": data["sound"]}, ["picture"]),
        lambda: generator.score({"word": data["word"]}),
    ):
        with pytest.raises(ValueError, match="No task has"):
            ask()
    model = make()
    model.compile("sgd", run_eagerly=True)
    del data["sound"]
    model.fit(data, verbose=0)
    generator = model.generator(num_steps=2)
    generator.generate({"word": data["word"]}, ["picture"])
    with pytest.raises(ValueError, match="No training example had 'sound'"):
        generator.generate({"word": data["word"]}, ["sound"])


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


def test_embed_is_the_mean_of_the_tokens(generator):
    data = batch_of(4)
    one = generator.embed({"word": data["word"]})
    both = generator.embed({"word": data["word"], "picture": data["picture"]})
    assert one.shape == both.shape == (4, 16) and np.abs(one - both).max() > 1e-3
    np.testing.assert_allclose(generator.embed({"word": data["word"][:2]}), one[:2], atol=1e-6)


@pytest.mark.parametrize("samplers", [{"picture": Ancestral(), "word": MaskGIT()}, {"word": MaskedAncestral(0.5, 0.9)}])
def test_samplers(samplers, given):
    generator = make().generator(samplers, num_steps=3)
    first, second = (generator.generate(num_samples=4, seed=seed) for seed in (0, 0))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@heavy
def test_averages_and_saving(tmp_path, given):
    model = make(ema_decays=(0.9,))
    model.compile("adam", run_eagerly=True)
    model.fit(batch_of(8), batch_size=4, epochs=2, verbose=0)
    generator = model.generator(num_steps=3, guidance={"word": 2.0})
    out = generator.generate(given)
    model.save(tmp_path / "model.keras")
    generator.save(tmp_path / "generator.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for other in (
        loaded.generator(num_steps=3, guidance={"word": 2.0}),
        keras.saving.load_model(tmp_path / "generator.keras"),
    ):
        again = other.generate(given)
        for name in out:
            np.testing.assert_allclose(again[name], out[name], atol=1e-5)
    model.assign_averages()
    average = dict(zip([v.path for v in model.network.weights], model.network.weights))
    for weight, value in zip(generator.network.weights, average.values()):
        np.testing.assert_allclose(numpy(weight), numpy(value), atol=1e-6)


def tokenized(kind):
    """Modalities with trained tokenizers: an image by codes or latents, and a text."""
    sizes = dict(filters=(8,), num_residual_layers=1, residual_filters=8)
    if kind == "codes":
        image = Modality("image", VQVAE((8, 8, 1), quantizer=VectorQuantizer(16, 4, seed=0), **sizes))
    else:
        image = Modality("image", VAE((8, 8, 1), latent_dim=2, seed=0, **sizes), patch_size=2)
    return [image, Modality("text", ByteTokenizer(4)), Modality("label", LabelTokenizer(["a", "b"]))]


@heavy
@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_signals_in_and_signals_out(kind):
    mods = tokenized(kind)
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=3)
    out = generator.generate({"text": ["one", "two"]})
    assert out["image"].shape == (2, 8, 8, 1) and np.abs(out["image"]).max() <= 1 and set(out["label"]) <= {"a", "b"}
    back = generator.generate({"image": out["image"], "label": out["label"]})
    assert len(back["text"]) == 2 and all(isinstance(text, str) for text in back["text"])


def test_a_learned_alphabet_is_loaded(tmp_path):
    text = CharacterTokenizer(3).fit(["abc", "bad"])
    mods = [Modality("text", text), Modality("x", PassThrough((4, 2)))]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
    generator.save(tmp_path / "generator.keras")
    again = keras.saving.load_model(tmp_path / "generator.keras")
    x = np.ones((3, 4, 2), "float32")
    assert again.generate({"x": x})["text"] == generator.generate({"x": x})["text"]
    with pytest.raises(ValueError, match="learned nothing"):
        Modality("text", CharacterTokenizer(3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_a_saved_model_has_a_signature_for_each_task(kind, tmp_path):
    mods = tokenized(kind)
    tasks = {
        "text_to_image": (("text",), ("image",)),
        "image_to_rest": (("image",), ("text", "label")),
        "all": ((), ("image", "text", "label")),
    }
    network = awake(MultimodalDiT(mods, **SMALL))
    generator = MultimodalGenerator(network, mods, tasks, num_steps=3, guidance={"text": 2.0})
    path = generator.export(tmp_path / "served", verbose=False)
    import tensorflow as tf

    served = tf.saved_model.load(str(path)).signatures
    assert set(served) == {*tasks, "serving_default"}
    seeds = numpy(row_seeds(0, 2))
    image = served["text_to_image"](seed=tf.constant(seeds), text=tf.constant(["one", "two"]))["image"].numpy()
    ours = generator.generate({"text": ["one", "two"]}, want=["image"])["image"]
    np.testing.assert_allclose(image, ours, atol=1e-4)
    rest = served["image_to_rest"](seed=tf.constant(seeds), image=tf.constant(ours))
    again = generator.generate({"image": ours})
    assert [text.decode("utf-8", "replace") for text in rest["text"].numpy()] == again["text"]
    assert ["ab"[i] for i in rest["label"].numpy()] == list(again["label"])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda g, d: g.generate({"smell": d["word"]}), "smell"),
        (lambda g, d: g.generate(d), "Nothing is wanted"),
        (lambda g, d: g.generate(want=[]), "Nothing is wanted"),
        (lambda g, d: g.generate(want=["smell"]), "smell"),
        (lambda g, d: g.generate({"word": d["word"]}, want=["word"]), "known"),
        (lambda g, d: g.generate({"word": d["word"]}, known={"sound": np.ones(4, bool)}), "known"),
        (lambda g, d: g.generate({"word": d["word"]}, known={"word": np.ones(4, bool)}), r"\(3,\)"),
        (lambda g, d: g.generate({"word": d["word"]}, known={"word": np.ones(3)}), "bool"),
        (lambda g, d: g.generate({"word": d["word"]}, present={"sound": np.ones(4, bool)}), "present"),
        (lambda g, d: g.generate({"word": d["word"]}, present={"word": np.ones(5, bool)}), "present"),
        (lambda g, d: g.generate({"word": d["word"]}, present={"word": np.ones((4, 2), bool)}), "present"),
        (lambda g, d: g.generate(want="word"), "list"),
        (lambda g, d: g.generate(d, ["word"], {"word": np.ones(3, bool)}, guidance={"word": 2.0}), "not wanted"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance={"sound": 2.0}), "absent"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance={"smell": 2.0}), "smell"),
        (lambda g, d: g.generate({"word": d["word"], "sound": d["sound"][:2]}), "rows"),
        (lambda g, d: g.generate({"word": d["word"]}, num_samples=2), "rows"),
        (lambda g, d: g.generate(num_samples=0), "nothing to do"),
        (lambda g, d: g.generate({"word": d["word"]}, seed=np.zeros(4, "int32")), r"\(b, 2\)"),
        (lambda g, d: g.generate({"word": d["word"] + 9}), "0..5"),
        (lambda g, d: g.generate({"word": d["word"]}, steps=0), "steps"),
        (lambda g, d: g.classify({"picture": d["picture"]}, "word"), "one id"),
        (lambda g, d: g.score({"picture": d["picture"]}), "bound"),
        (lambda g, d: g.score({"word": d["word"], "sound": d["sound"]}), "one modality"),
        (lambda g, d: g.classify({}, "picture"), "one id"),
        (lambda g, d: g.embed({}), "nothing is given"),
    ],
)
def test_what_is_refused(call, words, generator):
    with pytest.raises(ValueError, match=words):
        call(generator, batch_of(4))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(samplers={"word": Euler()}), "MaskedSampler"),
        (dict(samplers={"picture": MaskGIT()}), "latents"),
        (dict(samplers={"picture": Heun()}), "evaluation"),
        (dict(samplers={"smell": Euler()}), "smell"),
        (dict(guidance={"smell": 2.0}), "smell"),
        (dict(num_steps=0), "num_steps"),
    ],
)
def test_what_can_not_be_built(arguments, words):
    with pytest.raises(ValueError, match=words):
        make().generator(**arguments)


def test_decode_gives_signals():
    mods = tokenized("codes")
    generator = MultimodalGenerator(MultimodalDiT(mods, **SMALL), mods)
    codes, texts = np.zeros((2, 4, 4), "int32"), mods[1].encode(["ab", "c"])
    out = generator.decode({"image": codes, "text": texts})
    np.testing.assert_allclose(out["image"], numpy(mods[0].tokenizer.decode(codes)), atol=1e-6)
    assert out["text"] == ["ab", "c"]


def test_conditions_are_only_given():
    mods = [Modality("x", PassThrough((4, 2))), Modality("y", LabelTokenizer(3), adaln=True)]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
    assert set(generator.generate(num_samples=2)) == {"x"}
    with pytest.raises(ValueError, match="only given"):
        generator.generate(want=["y"])
    out = generator.generate({"y": [0, 1, 2]}, guidance=2.0)
    assert out["x"].shape == (3, 4, 2)
