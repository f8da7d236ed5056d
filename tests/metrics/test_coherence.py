import numpy as np
import pytest

from keras_mmai import Modality, metrics
from keras_mmai.tokenizers import PassThrough

LABELS = np.arange(12) % 3
SIGNALS = {"a": np.eye(3, dtype="int32")[LABELS], "b": LABELS[:, None].astype("int32")}


class Guesser:
    """Stands for a generator: says of "b" what is asked, and of "a" always 1."""

    modalities = [Modality("a", PassThrough((3,), 2)), Modality("b", PassThrough((1,), 3))]
    tasks = {"alone": ((), ("a",)), "a_to_b": (("a",), ("b",)), "b_to_a": (("b",), ("a",)), "both": ((), ("a", "b"))}

    def decode(self, tokens, batch_size=100):
        return tokens

    def guiding(self, given, want, guidance):
        return {name: guidance[name] for name in given if name in guidance}

    def generate(self, given, want, num_samples=None, seed=0, guidance=None):
        assert set(guidance) <= set(given)
        n = num_samples or len(next(iter(given.values())))
        found = given["a"].argmax(1) if given.get("a") is not None else LABELS[np.arange(n) % 12]
        out = {"a": np.eye(3, dtype="int32")[np.full(n, 1)], "b": found[:, None]}
        return {name: out[name] for name in want}


@pytest.mark.parametrize("tasks", [{"t": (("aa",), ("b",))}, {"real": (("a",), ("b",))}])
def test_names_of_tasks(tasks):
    judges = {"b": lambda x: x[:, 0]}
    judges["b"].features = lambda x: x
    with pytest.raises(ValueError, match="`tasks` are of the modalities"):
        metrics.coherence(Guesser(), SIGNALS, LABELS, judges, tasks, reference={"b": SIGNALS["b"]}, guidance={})


def test_shares_by_hand():
    judges = {"a": lambda x: x.argmax(1), "b": lambda x: np.where(x[:, 0] == 2, -1, x[:, 0])}
    found = metrics.coherence(Guesser(), SIGNALS, LABELS, judges, num_joint=6, guidance={"a": 2.0})
    assert found == {
        "tokenizer_ceiling": {"a": 1.0, "b": pytest.approx(2 / 3)},
        "conditional": {"a_to_b": {"b": pytest.approx(2 / 3)}, "b_to_a": {"a": pytest.approx(1 / 3)}},
        "joint": {"both": pytest.approx(1 / 3)},
        # of "b" two labels are found, as often
        "class_entropy": {"both": {"a": pytest.approx(0.0), "b": pytest.approx(np.log(2) / np.log(3))}},
        "valid": {"both": {"a": 1.0, "b": pytest.approx(2 / 3)}},
        "conditional_over_ceiling": pytest.approx((1 + 1 / 3) / 2),
        "joint_over_ceiling": {"both": pytest.approx(1 / 2)},  # of real ones two in three agree
    }


def test_distances_of_what_is_generated_to_a_reference():
    def judge(x):
        return x.argmax(1)

    judge.features = lambda x: x[:, :2].astype("float64")
    reference = {"a": np.eye(3)[[0, 0, 1]]}
    judges = {"a": judge, "b": lambda x: x[:, 0]}
    found = metrics.coherence(Guesser(), SIGNALS, LABELS, judges, reference=reference, guidance={"a": 2.0})
    of_ones = metrics.frechet_distance(np.tile([0.0, 1.0], (12, 1)), reference["a"][:, :2])
    assert found["frechet_distance"] == {
        "real": {"a": metrics.frechet_distance(SIGNALS["a"][:, :2], reference["a"][:, :2])},
        "a_to_b": {},
        "b_to_a": {"a": of_ones},
        "both": {"a": of_ones},
    }
    with pytest.raises(ValueError, match=r"`reference` is of modalities whose judge has `features`.*\['b'\]"):
        metrics.coherence(Guesser(), SIGNALS, LABELS, judges, reference={"b": SIGNALS["b"]})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(labels=LABELS[:, None]), r"`labels` are ints \(n,\)"),
        (dict(labels=LABELS[:3]), "one of each signal"),
        (dict(labels=LABELS.astype("float32")), "float32"),
        (dict(judges={"b": lambda x: x}), r"The judge of 'b' gives a label for each: \(12,\)"),
        (dict(judges={"c": lambda x: x}), r"Received: \['a', 'b'\] and \['c'\]"),
        (dict(signals={"a": SIGNALS["a"]}), r"Received: \['a'\] and \['b'\]"),
        (dict(signals={**SIGNALS, "c": LABELS}), r"Received: \['a', 'b', 'c'\]"),
        (dict(tasks="both"), "`tasks` are a dict, or names among .* Received: 'both'"),
        (dict(tasks=["both", "c_to_a"]), r"Received: \['both', 'c_to_a'\]"),
    ],
)
def test_what_coherence_refuses(change, message):
    arguments = dict(signals=SIGNALS, labels=LABELS, judges={"b": lambda x: x[:, 0]})
    with pytest.raises(ValueError, match=message):
        metrics.coherence(Guesser(), **{**arguments, **change}, guidance={})


def test_a_task_that_is_given_what_lacks_is_left_out():
    judges = {"b": lambda x: x[:, 0]}
    found = metrics.coherence(Guesser(), {"b": SIGNALS["b"]}, LABELS, judges, guidance={})
    assert found["tokenizer_ceiling"] == {"b": 1.0} and found["conditional"] == found["joint"] == {}


@pytest.mark.parametrize("shape", [(64, 1), (8, 8, 1)])
def test_a_judge_learns_what_is_easy(shape):
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 300)
    level = (labels - 1.0).reshape(-1, *[1] * len(shape))
    x = (0.5 * level + 0.1 * random.normal(size=(300, *shape))).astype("float32")
    judge = metrics.train_judge(x[:200], labels[:200], epochs=12, batch_size=16)
    assert np.mean(judge(x[200:]) == labels[200:]) > 0.95
    assert judge.features(x[:5]).shape == (5, 128) and (judge.features(x[:5]) >= 0).all()


def test_a_judge_of_waveforms_hears_pitches_at_any_phase_and_place():
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 400)
    hertz, phase, start = 400.0 * (1 + labels[:, None]), random.uniform(0, 6.28, (400, 1)), random.randint(0, 512, 400)
    x = np.sin(hertz * 2 * np.pi * np.arange(1024) / 8000 + phase) * (np.arange(1024) >= start[:, None])
    x = (x + 0.3 * random.normal(size=x.shape))[..., None].astype("float32")
    judge = metrics.train_judge(x[:300], labels[:300], epochs=6, batch_size=16, sample_rate=8000)
    assert np.mean(judge(x[300:]) == labels[300:]) > 0.95
    assert judge.features(x[:5]).shape == (5, 128)
    upside_down = judge.features(-x[:5])
    np.testing.assert_allclose(upside_down, judge.features(x[:5]), atol=1e-3)  # magnitudes have no sign
    with pytest.raises(ValueError, match=r"`sample_rate` is of waveforms \(n, samples, 1\)"):
        metrics.train_judge(np.ones((4, 8, 8, 1)), np.arange(4), sample_rate=8000)


@pytest.mark.parametrize(
    "signals, labels, words",
    [
        (np.ones((4, 2)), np.arange(4), "A judge learns"),
        (np.ones((4, 8, 1)), np.ones(4), "A judge learns"),
        (np.ones((0, 8, 1)), np.arange(0), "at least one"),
        (np.ones((4, 8, 1)), np.arange(4) - 1, r"`labels` are ints 0\.\. Received: -1"),
    ],
)
def test_what_a_judge_can_not_learn_from(signals, labels, words):
    with pytest.raises(ValueError, match=words):
        metrics.train_judge(signals, labels)
