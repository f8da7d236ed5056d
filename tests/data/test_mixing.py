import numpy as np
import pytest

from keras_mmai.data import mix

PAIRS = {"x": np.arange(8, dtype="float32").reshape(4, 2) + 1, "text": ["a", "b", "c", "d"]}
TEXTS = {"text": ["e", "f"]}
IMAGES = {"x": np.full((3, 2), 9, "float32"), "y": np.array([1, 2, 3], "int32")}


def test_every_row_is_there_in_its_share():
    data = mix([(PAIRS, 2), (TEXTS, 1), (IMAGES, 1)])
    assert len(data["x"]) == 12 and sorted(data) == ["present", "text", "x", "y"]
    here = data["present"]
    assert {name: int(flags.sum()) for name, flags in here.items()} == {"x": 9, "text": 9, "y": 3}
    assert (data["x"][~here["x"]] == PAIRS["x"][0]).all() and (data["text"][~here["text"]] == "a").all()
    assert data["y"].dtype == np.int32 and data["x"].dtype == np.float32
    rows = {(text, *x) for text, x in zip(data["text"], data["x"])}
    assert rows >= {(text, *x) for text, x in zip(PAIRS["text"], PAIRS["x"])}
    assert sorted(data["text"][here["text"] & ~here["x"]]) == ["e", "e", "f"]
    assert sorted(data["y"][here["y"]]) == [1, 2, 3]


def test_order_is_by_seed():
    one, same, other = (mix([(PAIRS, 1), (IMAGES, 1)], seed=seed)["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_presence_of_a_part_is_kept():
    padded = {**TEXTS, "present": {"text": np.array([[True, False], [True, True]])}}
    data = mix([(padded, 1), (PAIRS, 1)])
    assert data["present"]["text"].shape == (8, 2)
    rows = {text: tuple(here) for text, here in zip(data["text"], data["present"]["text"])}
    assert rows == {"e": (True, False), "f": (True, True), **dict.fromkeys("abcd", (True, True))}
    some = mix([({**PAIRS, "present": {"x": np.arange(4) < 2}}, 1)])
    assert some["present"]["x"].sum() == 2 and "text" not in some["present"]
    assert "present" not in mix([(PAIRS, 1)])


@pytest.mark.parametrize(
    "parts, words",
    [
        ([], "parts"),
        ([({**TEXTS, "present": {"text": np.ones(3, bool)}}, 1)], "present"),
        ([({**TEXTS, "present": {"text": np.ones(2)}}, 1)], "present"),
        ([({**TEXTS, "present": {"x": np.ones(2, bool)}}, 1)], "present"),
        ([(PAIRS, 0)], "positive"),
        ([({"x": np.ones((0, 2))}, 1)], "at least one"),
        ([({"x": np.ones((3, 2)), "y": np.ones(2)}, 1)], "as many rows"),
        ([(PAIRS, 1), ({"x": np.ones((2, 3), "float32")}, 1)], "differ"),
        ([(PAIRS, 1), ({"x": np.ones((2, 2), "int32")}, 1)], "differ"),
    ],
)
def test_bad_input(parts, words):
    with pytest.raises(ValueError, match=words):
        mix(parts)


@pytest.mark.parametrize("key, value", [("known", {}), ("task", np.zeros(2, int)), ("t", {"word": np.zeros(2)})])
def test_what_mix_does_not_carry(key, value):
    with pytest.raises(ValueError, match=f"add \\['{key}'\\] to what `mix` returns"):
        mix([({"word": np.zeros((2, 3), int), key: value}, 1.0)])


def test_presence_of_tokens_on_a_grid_beside_that_of_rows():
    cells = np.random.RandomState(0).rand(3, 2, 2) < 0.5
    parts = [{"image": np.arange(3.0), "present": {"image": cells}}, {"image": np.arange(3.0, 5.0)}]
    mixed = mix([(part, len(part["image"])) for part in parts])
    expected = np.concatenate([cells, np.ones((2, 2, 2), bool)])[mixed["image"].astype(int)]
    np.testing.assert_array_equal(mixed["present"]["image"], expected)
