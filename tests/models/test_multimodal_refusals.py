"""What models of several modalities refuse."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, TASKS, batch_of, make, modalities

from keras_mmai import VAE, VQVAE, Modality, MultimodalDiffusionTransformer, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import (
    Euler,
    GaussianDiffusion,
    Heun,
    MaskedDiffusion,
    MaskGIT,
    UniformTimes,
    VPCosine,
)
from keras_mmai.layers import SEANetDecoder, SEANetEncoder, VectorQuantizer
from keras_mmai.models import TokenSpace
from keras_mmai.tokenizers import CharacterTokenizer, LabelTokenizer, PassThrough


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Modality("two words", PassThrough((4, 2))), "letters"),
        (lambda: Modality("a_to_b", PassThrough((4, 2))), "_to_"),
        (lambda: Modality("noise", PassThrough((4, 2))), "another than"),
        (lambda: Modality("x", PassThrough((4, 2)), weight=0.0), "weight"),
        (lambda: Modality("x", PassThrough((4, 2)), weight=float("nan")), "weight"),
        (lambda: Modality("x", PassThrough((4, 2)), rate=-1.0), "rate"),
        (lambda: Modality("x", PassThrough((4, 2)), tokens="codes"), "latents"),
        (lambda: Modality("x", PassThrough((4, 2)), process=MaskedDiffusion(4)), "GaussianDiffusion"),
        (lambda: Modality("x", PassThrough((4,), 5), process=MaskedDiffusion(4)), "vocabulary 5"),
        (lambda: Modality("x", VAE((8, 8, 1), filters=(4,), strides=1, latent_dim=1)), "could not be told from them"),
        (lambda: TokenSpace((4, 4, 4, 4, 2)), "axes"),
        (lambda: TokenSpace((4, 4), 5, patch_size=2), "patch_size"),
        (lambda: TokenSpace((4,), 5, adaln=True), "adaln"),
        (lambda: TokenSpace((4,), 5, rate=0.0), "rate"),
        (lambda: TokenSpace((4,), 5, rate=float("nan")), "rate"),
        (lambda: TokenSpace((4,), 5, rate=float("inf")), "rate"),
        (lambda: TokenSpace((8, 3), code_axes=1), "code_axes"),
        (lambda: TokenSpace((8, 3), 5, code_axes=-1), "code_axes"),
        (lambda: TokenSpace((8, 0)), "at least 1"),
        (lambda: MultimodalDiT({"y": TokenSpace((1,), 5, adaln=True)}, **SMALL), "nothing that is generated"),
        (lambda: MultimodalDiT(modalities(), hidden_dim=10, num_heads=4), "num_heads"),
        (lambda: MultimodalDiT(modalities(), streams="none", **SMALL), "streams"),
        (lambda: MultimodalDiffusionTransformer([]), "modalities"),
        (lambda: MultimodalDiffusionTransformer(modalities()[:1] * 2), "different names"),
        (lambda: make(tasks={"a": (("smell",), ("word",))}), "smell"),
        (lambda: make(tasks={"a": (("word",), ())}), "wanted"),
        (lambda: make(tasks={"a": (("word",), ("word",))}), "given is not wanted"),
        (lambda: make(tasks={"a": ("word", "picture")}), "two tuples"),
        (lambda: make(tasks={"a": (("word",),)}), "two tuples"),
        (lambda: make(tasks={"a": (None, ("word",))}), "two tuples"),
        (lambda: make(tasks={"a": None}), "two tuples"),
        (lambda: make(tasks={}), "`tasks` is a dict of"),
        (lambda: make(independent_times=2.0), "independent_times"),
        (lambda: make(task_weights={"nothing": 1.0}), "task_weights"),
        (lambda: make(task_weights={"all": -1.0}), "task_weights"),
        (lambda: make(task_weights=dict.fromkeys(TASKS, 0.0)), "task_weights"),
        (lambda: make(partly_known=-1.0), "partly_known"),
        (
            lambda: MultimodalDiffusionTransformer(modalities(), MultimodalDiT(modalities()[:2], **SMALL)),
            r"built of these modalities, \['picture', 'word', 'sound'\]",
        ),
        (
            lambda: MultimodalDiffusionTransformer(modalities(), keras.layers.Dense(2)),
            "`network` must be a `MultimodalDiT`",
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
        (lambda d: d.update(known={"smell": np.ones(4, bool)}), "smell"),
        (lambda d: d.update(known={"word": np.ones((4, 2), bool)}), r"'known' of 'word' is bool .*\(b, 3\)"),
        (lambda d: d.update(known={"word": np.ones((3, 3), bool)}), "rows"),
        (lambda d: d.update(task=np.full(4, 4)), "task"),
        (lambda d: d.update(task=np.zeros(3, int)), "rows"),
        (lambda d: d.update(t={"smell": np.zeros(4)}), "smell"),
        (lambda d: d.update(present={"word": np.ones(4, bool)}) or d.pop("word"), "'present' is of signals"),
        (lambda d: d.update(known={"word": np.ones((4, 3), bool)}) or d.pop("word"), "'known' is of signals"),
        (lambda d: d.update(present={"word": np.ones(4)}), "bool"),
        (lambda d: d.update(present={"word": True}), "rows"),
        (lambda d: d.update(present=np.ones(4, bool)), "'present' is a dict"),
        (lambda d: d.update(known=[True] * 4), "'known' is a dict"),
        (lambda d: [d.pop(name) for name in ("picture", "word", "sound")], r"There is none of \[.*which tasks want"),
    ],
)
def test_what_fit_refuses(change, words):
    data = batch_of(4)
    change(data)
    model = make()
    model.compile("adam")
    before = [ops.convert_to_numpy(v) for v in model.variables]
    with pytest.raises(ValueError, match=words):
        model.fit(data, verbose=0)
    for variable, value in zip(model.variables, before):  # nothing is half learned
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_processes_and_schedules_are_free():
    process = GaussianDiffusion(VPCosine(), "v", UniformTimes())
    assert Modality("x", PassThrough((4, 2)), process=process).process == process


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
        (lambda g, d: g.generate(want=3), "list"),
        (lambda g, d: g.generate(num_samples=1, guidance="strong"), "finite number"),
        (lambda g, d: g.generate(d, ["word"], {"word": np.ones(3, bool)}, guidance={"word": 2.0}), "not wanted"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance={"sound": 2.0}), "absent"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance={"smell": 2.0}), "smell"),
        (lambda g, d: g.generate({"word": d["word"], "sound": d["sound"][:2]}), "rows"),
        (lambda g, d: g.generate({"word": d["word"]}, num_samples=2), "rows"),
        (lambda g, d: g.generate(num_samples=0), "`num_samples` is an int of at least 1"),
        (lambda g, d: g.generate({"word": d["word"][:0]}), "nothing to do"),
        (lambda g, d: g.generate({"word": np.array(1)}), "'word' needs a row for each example"),
        (lambda g, d: g.generate(num_samples=np.int64(5), seed=np.zeros((3, 2), "int32")), "seed"),
        (lambda g, d: g.decode({"word": ["a", "b"]}), "Tokens of 'word' are ids of shape"),
        (lambda g, d: g.generate(d["word"]), "`given` is a dict"),
        (lambda g, d: g.generate({"word": d["word"]}, present=np.ones(4, bool)), "`present` is a dict"),
        (lambda g, d: g.generate({"word": d["word"]}, present={"word": True}), "row for each of 4"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance=float("nan")), "finite number"),
        (lambda g, d: g.generate({"word": d["word"]}, guidance={"word": "2"}), "finite number"),
        (lambda g, d: g.generate(seed=None), "`seed` is an int"),
        (lambda g, d: g.score({"word": d["word"]}, seed=None), "`seed` is an int"),
        (lambda g, d: g.losses({"word": d["word"]}, 0.5, seed=None), "`seed` is an int"),
        (lambda g, d: g.generate(steps=2.0), "`steps` is an int"),
        (lambda g, d: g.generate({"word": d["word"]}, seed=np.zeros(4, "int32")), r"\(b, 2\)"),
        (lambda g, d: g.generate({"word": d["word"] + 9}), "0..5"),
        (lambda g, d: g.generate({"word": d["word"]}, steps=0), "steps"),
        (lambda g, d: g.classify({"picture": d["picture"]}, "word"), "one id"),
        (lambda g, d: g.classify({"picture": d["picture"]}, ["word"]), "name of a modality"),
        (lambda g, d: g.score({"picture": d["picture"]}), "bound"),
        (lambda g, d: g.score({"word": d["word"]}, num_draws=2.5), "`num_draws` is an int"),
        (lambda g, d: g.score({"word": d["word"]}, present=np.ones(4, bool)), "`present` is a dict"),
        (lambda g, d: g.losses({"word": d["word"]}, np.ones(4)), "noise level"),
        (lambda g, d: g.score({"word": d["word"], "sound": d["sound"]}), "one modality"),
        (lambda g, d: g.classify({}, "picture"), "one id"),
        (lambda g, d: g.embed({}), "`given` is a dict of at least one modality"),
        (lambda g, d: g.generate({"word": 3}), "'word' needs a row for each example"),
        (lambda g, d: g.generate({"word": "ab"}), "'word' needs a row for each example"),
        (lambda g, d: g.score(d["word"]), "`signals` is a dict"),
        (lambda g, d: g.losses(d["word"], 0.5), "`signals` is a dict"),
        (lambda g, d: g.attention(d["word"], "word", "sound", 0.5), "`signals` is a dict"),
        (lambda g, d: g.decode(d["word"]), "`tokens` is a dict"),
        (lambda g, d: g.decode({"word": d["word"] + 9}), r"ids in 0\.\.5"),
        (lambda g, d: g.decode({"picture": d["picture"] * np.nan}), "must be finite"),
    ],
)
def test_what_a_generator_refuses(call, words, generator):
    with pytest.raises(ValueError, match=words):
        call(generator, batch_of(4))


@pytest.mark.parametrize(
    "text, words",
    [
        ("cat", "'word': The alphabet of 3 characters lacks 't' at 2 of the text 'cat'"),
        ("abba", "'word': CharacterTokenizer holds `length` = 3 ids of each text. Received: a text of 4 at index 1"),
    ],
)
def test_a_text_that_has_no_ids_is_refused(text, words):
    """By the modality's name, at every door."""
    mods = [Modality("word", CharacterTokenizer(3, "abc")), Modality("label", LabelTokenizer(2))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    model.compile("adam")
    generator, texts, labels = model.generator(num_steps=1), ["ab", text], [0, 1]
    for call in (
        lambda: model.fit({"word": texts, "label": labels}, verbose=0),
        lambda: model.fit({"word": ["ab"] * 2}, validation_data={"word": texts}, verbose=0),
        lambda: model.evaluate({"word": texts}, verbose=0),
        lambda: model.precompute({"word": texts}),
        lambda: generator.generate({"word": texts}, ["label"]),
        lambda: generator.generate({"word": texts}, ["word"], {"word": np.ones(3, bool)}),
        lambda: generator.classify({"word": texts}, "label"),
        lambda: generator.score({"word": texts}),
        lambda: generator.embed({"word": texts}),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
            call()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(samplers={"word": Euler()}), "MaskedSampler"),
        (dict(samplers={"picture": MaskGIT()}), "latents"),
        (dict(samplers={"picture": Heun()}), "evaluation"),
        (dict(samplers={"smell": Euler()}), "smell"),
        (dict(samplers=MaskGIT()), "`samplers` is a dict by modality"),
        (dict(order="word"), "`order` is a list .*'word'"),
        (dict(order=5), "`order` is a list .*5"),
        (dict(guidance={"smell": 2.0}), "smell"),
        (dict(guidance=float("inf")), "finite number"),
        (dict(tasks=["all", "some"]), r"`tasks` are some of .*Received: \['all', 'some'\]"),
        (dict(tasks="all"), "`tasks` are some of"),
        (dict(tasks=[]), "`tasks` are some of"),
        (dict(num_steps=0), "num_steps"),
        (dict(num_steps=2.5), "num_steps"),
    ],
)
def test_what_a_generator_can_not_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        make().generator(**arguments)


@pytest.mark.parametrize(
    "mods, unseen, words",
    [
        (modalities()[:2], (), "`network` must be a `MultimodalDiT`"),
        (modalities()[:1] * 2, (), "different names"),
        (modalities(), ["smell"], "`unseen`: the modalities are"),
        (modalities(), "word", "`unseen` is a list"),
    ],
)
def test_what_a_generator_can_not_be_of(mods, unseen, words):
    with pytest.raises(ValueError, match=words):
        MultimodalGenerator(MultimodalDiT(modalities(), **SMALL), mods, unseen=unseen)


def test_a_batch_of_texts_is_refused_by_name():
    mods = [Modality("word", CharacterTokenizer(3, "abc"))]
    model = MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), seed=0)
    for texts in (np.array(["a", "b"]), np.array(["a", "b"], object)):
        with pytest.raises(ValueError, match="'word' must be tokens"):
            model.check_values({"word": texts})


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_what_was_not_learned_can_not_be_asked_for():
    model = make(tasks={"a": (("word",), ("picture",))})
    generator, data = model.generator(num_steps=2), batch_of(2)
    both = {"word": data["word"], "sound": data["sound"]}
    for argument, ask in (
        ("want", lambda: generator.generate({"picture": data["picture"]}, ["word"])),
        ("given", lambda: generator.generate(both, ["picture"])),
        ("signals", lambda: generator.score({"word": data["word"]})),
        ("given", lambda: generator.embed({"picture": data["picture"]})),
        ("order", lambda: model.generator(order=["sound"])),
    ):
        with pytest.raises(ValueError, match=f"`{argument}`: no task has"):
            ask()
    model = make()
    model.compile("sgd", run_eagerly=True)
    del data["sound"]
    model.fit(data, verbose=0)
    generator = model.generator(num_steps=2)
    generator.generate({"word": data["word"]}, ["picture"])
    with pytest.raises(ValueError, match="`want`: no training example had 'sound'"):
        generator.generate({"word": data["word"]}, ["sound"])
    # nor has a SavedModel a signature for it; tasks are what is left of them
    left = {"picture_to_word": (("picture",), ("word",)), "word_to_rest": (("word",), ("picture",))}
    assert generator.tasks == {"all": ((), ("picture", "word")), **left}


def test_a_generator_of_what_no_example_had():
    model = make(tasks={"a": (("word",), ("picture",))})
    model.seen.assign([0.0, 1.0, 0.0])  # the word alone, as where "present" says that no example has a picture
    with pytest.raises(ValueError, match=r"only modalities that no training example had: \['picture', 'sound'\]"):
        model.generator()


@pytest.mark.parametrize(
    "noise",
    [
        {"word": np.full((4, 3), 7.0, "float32")},
        {"word": np.zeros((4, 2), "float32")},
        {"word": np.zeros((4, 3), "int32")},
        {"picture": np.full((4, 4, 4, 2), np.nan, "float32")},
    ],
)
def test_noise_that_is_none(noise):
    model = make()
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"'noise' of '(word|picture)' is finite"):
        model.fit({**batch_of(4), "noise": noise}, verbose=0)


def test_tasks_of_examples_are_one_number_each():
    model = make()
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"'task' is of ints \(b,\)"):
        model.precompute({**batch_of(4), "task": np.zeros((4, 3), "int32")})


def test_sample_rates():
    """Arrays have none, but can come with it."""
    sizes = dict(strides=(4,), patch_size=8, fourier=True)
    encoder, decoder = SEANetEncoder(4, 4, **sizes), SEANetDecoder(4, 1, **sizes)
    codec = VQVAE((64, 1), encoder=encoder, decoder=decoder, quantizer=VectorQuantizer(8, 4), sample_rate=8000)
    sound, x = Modality("sound", codec), np.zeros((2, 64, 1), "float32")
    np.testing.assert_array_equal(sound.encode(x, sample_rate=8000), sound.encode(x))
    with pytest.raises(ValueError, match=r"'sound' takes signals at sample_rate=8000. Received: sample_rate=16000"):
        sound.encode(x, sample_rate=16000)


def test_a_condition_is_not_embedded():
    mods = [Modality("label", LabelTokenizer(2), adaln=True), Modality("x", PassThrough((3,), 6))]
    generator = make_of(mods).generator(num_steps=1)
    with pytest.raises(ValueError, match="no tokens to embed"):
        generator.embed({"label": [0, 1]})


def test_names_that_make_one_task_of_two():
    mods = [Modality(name, PassThrough((3,), 6)) for name in ("a", "b", "a_b")]
    with pytest.raises(ValueError, match="make two tasks 'a_b_to_a_b'"):
        make_of(mods)
    make_of(mods, {"first": ((), ("a",)), "second": (("a_b",), ("b",))})
    with pytest.raises(ValueError, match="`tasks` is a dict"):
        make_of(mods, [((), ("a",))])


def make_of(mods, tasks=None):
    return MultimodalDiffusionTransformer(mods, MultimodalDiT(mods, **SMALL), tasks)
