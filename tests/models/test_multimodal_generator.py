"""What is generated of several modalities."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from multimodal_models import SMALL, TASKS, awake, batch_of, make, tensors

from keras_mmai import Modality, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import (
    Ancestral,
    MaskedAncestral,
    MaskGIT,
    normal,
    uniform_times,
)
from keras_mmai.models.programs import Fill
from keras_mmai.noise import row_seeds, split
from keras_mmai.tokenizers import LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


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


def test_a_row_of_any_question_depends_on_itself_alone():
    generator, data, random = make().generator(num_steps=3, order=["sound"]), batch_of(5), np.random.RandomState(0)
    known, here, seeds = random.rand(5, 4) < 0.5, np.arange(5) != 1, random.randint(0, 99, (5, 2)).astype("int32")

    def answers(rows, **options):
        given = {name: data[name][rows] for name in ("word", "sound")}
        options |= dict(known={"sound": known[rows]}, present={"word": here[rows]}, guidance=2.0, seed=seeds[rows])
        return generator.generate(given, ["picture", "sound"], **options)

    whole = answers(np.arange(5))
    for rows, options in ((np.array([4, 1]), {}), (np.arange(5), {"batch_size": 2})):
        for name, x in answers(rows, **options).items():
            np.testing.assert_allclose(x, whole[name][rows], atol=1e-5, err_msg=name)


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


def test_guidance_is_one_pass_of_the_network(monkeypatch):
    generator, data, asked = make().generator(num_steps=3), batch_of(3), []
    call = MultimodalDiT.call

    def spy(self, tokens, *args, **kwargs):
        asked.append(len(tokens["picture"]))
        return call(self, tokens, *args, **kwargs)

    monkeypatch.setattr(MultimodalDiT, "call", spy)
    given = {"word": data["word"], "sound": data["sound"]}
    want, inputs = generator._door.filling(given, ["picture"], None, steps=None, guidance=2.0)
    step, start = Fill(generator, want, (("picture",),), 3)._way(tensors(inputs), ("picture",), {})
    step(start, 0)
    assert asked == [9]  # three rows, as they are and without each of two


def test_known_tokens_stay_and_the_others_are_generated(generator):
    data = batch_of(5)
    known = {"picture": np.array([[True, False], [False, True]]), "sound": np.arange(4) < 2}
    out = generator.generate(data, want=["picture", "sound"], known=known, seed=1)
    patches = np.kron(known["picture"], np.ones((2, 2))) > 0
    np.testing.assert_array_equal(out["picture"][:, patches], data["picture"][:, patches])
    assert (np.abs(out["picture"] - data["picture"])[:, ~patches] > 1e-3).all()
    np.testing.assert_array_equal(out["sound"][:, :2], data["sound"][:, :2])
    assert (out["sound"][:, 2:] != data["sound"][:, 2:]).any()


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


@pytest.mark.parametrize("samplers", [{"picture": Ancestral(), "word": MaskGIT()}, {"word": MaskedAncestral(0.5, 0.9)}])
def test_samplers(samplers, given):
    """Each is the sampler of its modality, and of no other; the same seed gives the same with each."""
    generator = make().generator(samplers, num_steps=3)
    first, second = (generator.generate(num_samples=16, seed=seed) for seed in (0, 0))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        of_one = make().generator({k: v for k, v in samplers.items() if k == name}, num_steps=1)
        plain, other = (g.generate(want=[name], num_samples=16, steps=3) for g in (make().generator(), of_one))
        assert (np.abs(plain[name] - other[name]).max() > 0) == (name in samplers)


def test_conditions_are_only_given():
    mods = [Modality("x", PassThrough((4, 2))), Modality("y", LabelTokenizer(3), adaln=True)]
    generator = MultimodalGenerator(awake(MultimodalDiT(mods, **SMALL)), mods, num_steps=2)
    assert set(generator.generate(num_samples=2)) == {"x"}
    with pytest.raises(ValueError, match="only given"):
        generator.generate(want=["y"])
    out = generator.generate({"y": [0, 1, 2]}, guidance=2.0)
    assert out["x"].shape == (3, 4, 2)


def test_an_order_is_one_question_after_the_other():
    together = make().generator(num_steps=3, guidance={"word": 2.0})
    ordered = make().generator(num_steps=3, guidance={"word": 2.0}, order=["word", ("picture",)])
    assert ordered.groups((), ("picture", "word", "sound")) == (("word",), ("picture",), ("sound",))
    assert together.groups((), ("picture", "word")) == (("picture", "word"),)
    made = ordered.generate(num_samples=3, seed=2)
    word = together.generate(want=["word"], num_samples=3, seed=2)
    picture = together.generate(word, ["picture"], seed=2)
    sound = together.generate({**word, **picture}, ["sound"], seed=2)
    for name, x in {**word, **picture, **sound}.items():
        np.testing.assert_allclose(made[name], x, atol=1e-5, err_msg=name)
    steps = ordered.trajectory(num_samples=3, seed=2)
    for name, x in made.items():
        np.testing.assert_allclose(steps[name][-1], x, atol=1e-5, err_msg=name)


def test_what_comes_first_in_the_order_is_made_unasked():
    together = make().generator(num_steps=3, guidance={"word": 2.0})
    ordered = make().generator(num_steps=3, guidance={"word": 2.0}, order=["word", "picture"])
    sound = {"sound": batch_of(3)["sound"]}
    made = ordered.generate(sound, ["picture"], seed=2)
    assert set(made) == {"picture"}
    word = together.generate(sound, ["word"], seed=2)
    expected = together.generate({**sound, **word}, ["picture"], seed=2)
    np.testing.assert_allclose(made["picture"], expected["picture"], atol=1e-5)
    steps = ordered.trajectory(sound, ["picture"], seed=2)
    assert set(steps) == {"picture"}
    np.testing.assert_allclose(steps["picture"][-1], made["picture"], atol=1e-5)
    # neither what is given, nor what nothing that is wanted comes after
    assert ordered.groups(("word",), ("sound",)) == (("picture",), ("sound",))
    assert ordered.groups(("sound",), ("word",)) == (("word",),)
    pairs = make().generator(order=[("word", "picture")])
    assert pairs.groups((), ("picture",)) == (("picture",),) and pairs.groups((), ("sound",))[0] == ("picture", "word")


def test_what_comes_later_in_the_order_tells_what_of_it_is_known():
    generator = make().generator(num_steps=3, order=["word"])
    data, known = batch_of(3), np.array([[True, False], [False, True]])
    given, flags = {"picture": data["picture"]}, {"picture": known}
    made = generator.generate(given, ["picture", "word"], flags, seed=1)
    word = {"word": made["word"]}
    picture = generator.generate({**given, **word}, ["picture"], flags, seed=1)
    np.testing.assert_allclose(made["picture"], picture["picture"], atol=1e-5)
    other = data["picture"] + np.where(known, 0.0, 1.0).repeat(2, 0).repeat(2, 1)[..., None].astype("float32")
    again = generator.generate({"picture": other}, ["picture", "word"], flags, seed=1)
    for name in made:  # what the unknown tokens held
        np.testing.assert_array_equal(again[name], made[name])


def test_until_its_turn_what_is_not_known_is_noise(monkeypatch):
    """As in training, where each generated modality has a noise level of its own."""
    generator, data, asked = make().generator(num_steps=3, order=["word"]), batch_of(3), []
    call = MultimodalDiT.call

    def spy(self, tokens, t, present=None, known=None, training=False):
        asked.append({"t": numpy(t["picture"]), "known": numpy(known["picture"]), "picture": numpy(tokens["picture"])})
        return call(self, tokens, t, present, known, training)

    monkeypatch.setattr(MultimodalDiT, "call", spy)
    known = np.tile([[True, False], [False, True]], (3, 1, 1))
    given, flags = {"picture": data["picture"]}, {"picture": known}
    want, inputs = generator._door.filling(given, ["picture", "word"], flags, steps=None, seed=1)
    fill = Fill(generator, want, generator.groups(inputs["given"], want), 3)
    step, start = fill._way(tensors(inputs), ("word",), {})
    step(start, 0)
    (one,) = asked
    np.testing.assert_array_equal(one["t"], np.ones(3))
    np.testing.assert_array_equal(one["known"], known.reshape(3, 4))
    stays = numpy(generator.network.spaces["picture"].spread(ops.convert_to_tensor(known.reshape(3, 4))))
    noise = numpy(normal(split(row_seeds(1, 3), 3)[:, 0], (4, 4, 2)))  # the picture is the first modality
    np.testing.assert_allclose(one["picture"], np.where(stays, data["picture"], noise), rtol=1e-6)


def test_what_is_wanted_and_not_there_is_generated():
    generator, data = make().generator(num_steps=3), batch_of(3)
    given, nothing = {"picture": data["picture"]}, np.zeros((3, 2, 2), bool)
    here = np.array([True, False, True])
    plain = generator.generate(given, ["picture"], {"picture": nothing}, seed=1)["picture"]
    absent = generator.generate(given, ["picture"], {"picture": ~nothing}, {"picture": here}, seed=1)["picture"]
    np.testing.assert_allclose(absent[1], plain[1], atol=1e-5)
    np.testing.assert_array_equal(absent[here], data["picture"][here])


def test_what_is_made_first_guides_as_asked():
    data = {"sound": batch_of(3)["sound"]}
    tasks = {**TASKS, "rest": (("word", "sound"), ("picture",))}
    plain, guided = (make(tasks).generator(num_steps=3, order=["word"], guidance=g) for g in (None, {"word": 3.0}))
    out = plain.generate(data, seed=1)
    asked = plain.generate(data, seed=1, guidance={"word": 3.0})
    same = guided.generate(data, seed=1)
    none = guided.generate(data, seed=1, guidance=1.0)
    for name in out:
        np.testing.assert_allclose(asked[name], same[name], atol=1e-5)
        np.testing.assert_allclose(none[name], out[name], atol=1e-5)
    assert np.abs(asked["picture"] - out["picture"]).max() > 1e-4


def test_known_and_present_hold_together_in_an_order():
    generator, data = make().generator(num_steps=3, order=["word"]), batch_of(3)
    known, here = np.array([[True, False], [False, True]]), np.array([[True, True], [True, False]])
    flags = {"present": {"picture": np.tile(here, (3, 1, 1))}, "known": {"picture": known}}
    other = data["picture"].copy()
    other[:, 2:, 2:] += 1.0  # known, and absent
    word = generator.generate({"picture": data["picture"]}, ["picture", "word"], seed=1, **flags)["word"]
    np.testing.assert_array_equal(
        word, generator.generate({"picture": other}, ["picture", "word"], seed=1, **flags)["word"]
    )


@pytest.mark.slow
def test_an_order_is_saved_compiled_and_exported(tmp_path):
    model = make({**TASKS, "sound_to_picture": (("sound",), ("picture",))})
    model.compile("adam", jit_compile=keras.backend.backend() != "torch")
    generator = model.generator(num_steps=2, order=["word"], guidance={"word": 2.0})
    made = generator.generate(num_samples=2, seed=4)
    eager = make().generator(num_steps=2, order=["word"], guidance={"word": 2.0}).generate(num_samples=2, seed=4)
    generator.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras")
    again, steps = loaded.generate(num_samples=2, seed=4), generator.trajectory(num_samples=2, seed=4)
    generator.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["all"]
    served = served(seed=tf.constant([[4, 0], [4, 1]]))
    for name, x in made.items():
        for other in (eager[name], again[name], steps[name][-1], served[name].numpy()):
            np.testing.assert_allclose(other, x, atol=1e-4, err_msg=name)
    sound = batch_of(2)["sound"]  # of which the word is made, and of both the picture
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["sound_to_picture"]
    served = served(seed=tf.constant([[4, 0], [4, 1]]), sound=tf.constant(sound))
    assert set(served) == {"picture"}
    made = generator.generate({"sound": sound}, ["picture"], seed=4)["picture"]
    np.testing.assert_allclose(served["picture"].numpy(), made, atol=1e-4)


def test_an_order_is_of_modalities():
    with pytest.raises(ValueError, match="`order`: no task has 'word' given"):
        make({"all": ((), ("picture", "word"))}).generator(order=["word"])
    with pytest.raises(ValueError, match="`order`: no task has 'word' wanted"):
        make({"given": (("word",), ("picture",)), "all": ((), ("picture",))}).generator(order=["word"])
    with pytest.raises(ValueError, match="`order`: the modalities are"):
        make().generator(order=["smell"])
    with pytest.raises(ValueError, match="each modality once"):
        make().generator(order=["word", ("word", "sound")])


def test_a_generator_of_some_tasks_and_of_one_guidance():
    generator = make().generator(num_steps=2, guidance=2.0, tasks=["word_to_rest"])
    assert list(generator.tasks) == ["word_to_rest"] and set(generator.serving_signatures()) == {"word_to_rest"}
    assert generator.guidance == 2.0
    out = generator.generate({"word": batch_of(2)["word"]})  # what is learned of what is not given
    assert set(out) == {"picture", "sound"}
    whole = make().generator(num_steps=2).generate({"word": batch_of(2)["word"]}, ["picture", "sound"], guidance=2.0)
    np.testing.assert_allclose(out["picture"], whole["picture"], atol=1e-6)
