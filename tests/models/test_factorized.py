"""Attention of a video that is within each frame and along time in turn."""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import awake

from keras_mmai import MultimodalDiT
from keras_mmai.layers import attention, dit
from keras_mmai.models import TokenSpace

numpy = ops.convert_to_numpy
SIZES = dict(hidden_dim=16, num_heads=2)
FRAMES, PLACES = 3, 4
SPACES = {
    "video": TokenSpace((FRAMES, 4, 4, 2), patch_size=(1, 2, 2), rate=2.0),
    "label": TokenSpace((1,), 3, adaln=True),
}
CODES = {"video": TokenSpace((FRAMES, 2, 2), 5)}
RANDOM = np.random.RandomState(0)
VIDEO = RANDOM.normal(size=(5, FRAMES, 4, 4, 2)).astype("float32")
IDS = RANDOM.randint(0, 5, (5, FRAMES, 2, 2)).astype("int32")
LABEL = np.array([[0], [1], [2], [1], [0]], "int32")
TIMES = {"video": np.linspace(0.1, 0.9, 5).astype("float32")}
SOME = RANDOM.rand(5, FRAMES * PLACES) < 0.7
FLAGS = {
    "all": {},
    "label": {},
    "present": {"present": {"video": SOME}},
    "known": {"known": {"video": SOME}},
    "present and known": {"present": {"video": SOME}, "known": {"video": ~SOME | (RANDOM.rand(*SOME.shape) < 0.5)}},
}


def networks(num_layers, spaces=SPACES):
    return [
        awake(MultimodalDiT(spaces, num_layers=num_layers, attention=attention, **SIZES))
        for attention in ("full", "factorized")
    ]


def with_masks(monkeypatch):
    """Gives full attention the mask of factorised attention: of the same frame in the first block, then of the same
    place, then of the same frame again."""
    frame, place = np.divmod(np.arange(FRAMES * PLACES), PLACES)
    same = [x[:, None] == x[None] for x in (frame, place)]
    plain, count = attention.attend, iter(range(100))

    def attend(q, k, v, mask, along=None):
        assert along is None
        return plain(q, k, v, ops.logical_and(mask[:, None], same[next(count) % 2][None]))

    monkeypatch.setattr(dit, "attend", attend)


def given(case):
    tokens = {"video": VIDEO, "label": LABEL} if case == "label" else {"video": VIDEO}
    return tokens, TIMES, FLAGS[case]


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("case", FLAGS)
def test_it_is_full_attention_with_a_mask(case, num_layers, monkeypatch):
    full, factorized = networks(num_layers)
    tokens, times, flags = given(case)
    there = FLAGS[case].get("present", {}).get("video", np.ones_like(SOME))
    there = numpy(SPACES["video"].spread(there)) & np.ones(VIDEO.shape, bool)  # nobody asks what an absent token says
    ours, unmasked = factorized(tokens, times, **flags)["video"], full(tokens, times, **flags)["video"]
    features = factorized.features(tokens, times, **flags)
    with_masks(monkeypatch)
    expected = numpy(full(tokens, times, **flags)["video"])
    assert np.abs(expected - numpy(unmasked))[there].max() > 1e-3
    np.testing.assert_allclose(numpy(ours)[there], expected[there], rtol=1e-5, atol=1e-5)
    with_masks(monkeypatch)
    np.testing.assert_allclose(numpy(features), numpy(full.features(tokens, times, **flags)), rtol=1e-5, atol=1e-5)


def test_absent_tokens_change_nothing():
    """Not even where a whole frame, a place at all times, or everything is absent."""
    _, network = networks(3)
    here = np.ones((5, FRAMES, PLACES), bool)
    here[0, 1], here[1, :, 2], here[2] = False, False, False
    here[3] = SOME[3].reshape(FRAMES, PLACES)
    here = here.reshape(5, -1)
    spread = np.broadcast_to(numpy(SPACES["video"].spread(here)), VIDEO.shape)
    other = np.where(spread, VIDEO, 1e3).astype("float32")
    outputs = [numpy(network({"video": x}, TIMES, present={"video": here})["video"]) for x in (VIDEO, other)]
    assert np.isfinite(outputs).all()
    np.testing.assert_array_equal(*[x[spread] for x in outputs])
    whole = numpy(network({"video": VIDEO}, TIMES)["video"])
    assert all(np.abs(whole - outputs[0])[i][spread[i]].max() > 1e-4 for i in (0, 1, 3))
    np.testing.assert_allclose(whole[4], outputs[0][4], rtol=1e-5, atol=1e-6)


def test_a_known_token_is_one_at_noise_level_zero():
    _, network = networks(2, CODES)
    zero = {"video": np.zeros(5, "float32")}
    clean = network({"video": IDS}, zero)["video"]
    known = network({"video": IDS}, TIMES, known={"video": np.ones(5, bool)})["video"]
    np.testing.assert_allclose(numpy(known), numpy(clean), rtol=1e-5, atol=1e-6)
    some = network({"video": IDS}, TIMES, known={"video": SOME})["video"]
    assert np.abs(numpy(some) - numpy(clean)).max() > 1e-4


def test_one_block_reads_its_own_frame_alone_and_two_read_all():
    for num_layers, reached in ((1, [1]), (2, [0, 1, 2])):
        _, network = networks(num_layers)
        other = VIDEO.copy()
        other[:, 1] += 1.0
        one, two = (numpy(network({"video": x}, TIMES)["video"]) for x in (VIDEO, other))
        assert np.unique(np.nonzero(one != two)[1]).tolist() == reached


def test_gradients_reach_every_weight(gradients):
    _, network = networks(2)

    def loss():
        return ops.mean(ops.square(network({"video": VIDEO, "label": LABEL}, TIMES)["video"]))

    _, found = gradients(loss, (), network.trainable_variables)
    for variable, gradient in zip(network.trainable_variables, found):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_it_is_saved_and_loaded(tmp_path):
    _, network = networks(2)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.attention == "factorized" and loaded.get_config() == network.get_config()
    outputs = [numpy(n({"video": VIDEO, "label": LABEL}, TIMES)["video"]) for n in (network, loaded)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(
    "spaces, options, message",
    [
        (SPACES, dict(attention="sparse"), r"must be one of \('full', 'factorized'\). Received: 'sparse'"),
        ({"x": TokenSpace((4, 4, 2))}, dict(attention="factorized"), r"grid of \(time, y, x\).*\{'x': \(4, 4\)\}"),
        ({**CODES, "x": TokenSpace((4, 2))}, dict(attention="factorized"), r"for one modality.*'x': \(4,\)"),
        ({**CODES, "x": CODES["video"]}, dict(attention="factorized"), "for one modality"),
    ],
)
def test_it_is_of_one_video_alone(spaces, options, message):
    with pytest.raises(ValueError, match=message):
        MultimodalDiT(spaces, num_layers=1, **options, **SIZES)
