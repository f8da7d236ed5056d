import random
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mmai.tokenizers import BPETokenizer, ByteTokenizer, CharacterTokenizer

HARD = [
    "",
    "\0",
    "a\0\0",
    "\u0301",
    "e\u0301",
    "\U0001f469\u200d\U0001f680",
    "\r\n \t ",
    "\ufeff\ufffd\U0010ffff",
    "[PAD]",
]
CORPUS = ["the cat sat on the mat, and the dog sat on the cat"] * 20 + ["\u00e9t\u00e9 \u00e0 la mer"] * 5


def random_texts(number, seed=0):
    """Texts of code points of every kind, without halves of surrogate pairs."""
    rng = random.Random(seed)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF), (0x300, 0x36F)]
    return ["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 12))) for _ in range(number)]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer(48, 280).fit(CORPUS)


@pytest.fixture(params=["bytes", "bpe"])
def universal(request):
    """The tokenizers that take every text."""
    return ByteTokenizer(48) if request.param == "bytes" else request.getfixturevalue("bpe")


def test_every_text_comes_back(universal):
    texts = HARD + random_texts(500)
    tokens = universal.encode(texts)
    assert tokens.shape == (len(texts), 48) and tokens.dtype == "int32"
    assert universal.decode(tokens) == texts


def test_padding_stands_behind_the_text_and_only_there(universal):
    texts = HARD + random_texts(50)
    tokens = universal.encode(texts)
    for kind in (np.asarray, ops.convert_to_tensor):
        mask = np.asarray(universal.mask(kind(tokens)))
        assert mask.dtype == bool and mask.shape == tokens.shape
        np.testing.assert_array_equal(mask.sum(1), [len(universal.ids_of(text)) for text in texts])
        assert (np.diff(mask.astype(int)) <= 0).all()


def test_texts_come_in_many_forms(universal):
    texts = ["caf\u00e9", "", "\U0001f41d"]
    expected = universal.encode(texts)
    raw = [text.encode() for text in texts]
    for form in (tuple(texts), np.array(texts), np.array(texts, object), raw, np.array(raw), tf.constant(raw)):
        np.testing.assert_array_equal(universal.encode(form), expected)
    assert universal.encode([]).shape == (0, 48) and universal.decode(universal.encode([])) == []


def test_padding_that_a_model_puts_inside_is_left_out(universal):
    (ids,) = universal.encode(["abc"])
    spread = np.zeros((1, 48), "int32")
    spread[0, [1, 5, 47]] = ids[:3]
    assert universal.decode(spread) == [universal.decode(ids[None])[0]]


def test_bytes_that_are_no_text_are_shown_as_such(universal):
    tokens = np.zeros((1, 48), "int32")
    tokens[0, 0] = universal.encode(["\u00e9"])[0, 0] if isinstance(universal, ByteTokenizer) else 256
    assert universal.decode(tokens) == ["\ufffd"]


@pytest.mark.parametrize("length", [1, 3, 7])
def test_truncation_keeps_whole_characters_and_as_many_as_fit(length):
    texts = HARD + random_texts(100)
    tokenizer = ByteTokenizer(length)
    cut = tokenizer.truncate(texts)
    assert tokenizer.decode(tokenizer.encode(cut)) == cut
    for short, text in zip(cut, texts):
        assert text.startswith(short)
        assert short == text or len(text[: len(short) + 1].encode()) > length


def test_truncation_by_other_ids():
    short = BPETokenizer(3, 280).fit(CORPUS)
    assert all(short.decode(short.encode([cut])) == [cut] for cut in short.truncate(HARD + CORPUS + random_texts(50)))
    assert short.truncate(["the the the the"]) == ["the the the"]
    assert CharacterTokenizer(2, "abc").truncate(["abc", "a"]) == ["ab", "a"]


def test_errors_at_the_door_teach(universal):
    with pytest.raises(ValueError, match=r"holds `length` = 48 ids.*at index 1, '.*larger `length`.*`truncate`"):
        universal.encode(["short", "\u4e2d" * 40])
    with pytest.raises(ValueError, match=r"str along one axis, as a list or array. Received: 'one'"):
        universal.encode("one")
    with pytest.raises(ValueError, match=r"str along one axis"):
        universal.encode([["nested"]])
    with pytest.raises(ValueError, match=r"str along one axis"):
        universal.encode(text for text in CORPUS)
    with pytest.raises(ValueError, match=r"index 1: must be str, or bytes in UTF-8. Received: 3"):
        universal.encode(["a", 3])
    with pytest.raises(ValueError, match=r"index 1: not in UTF-8.*Received: b'\\xff'"):
        universal.encode([b"a", b"\xff"])
    with pytest.raises(ValueError, match=r"index 0: .*half of a character.*surrogates not allowed"):
        universal.encode(["\ud83d"])
    with pytest.raises(ValueError, match=r"integers of shape \('b', 48\) in 0\.\.\d+. Received: \(2, 47\)"):
        universal.decode(np.zeros((2, 47), "int32"))
    with pytest.raises(ValueError, match=r"Received: \(2, 48\) float32"):
        universal.decode(ops.zeros((2, 48)))
    last = universal.vocabulary - 1
    for wrong in (-1, last + 1):
        with pytest.raises(ValueError, match=rf"must be in 0..{last}. Received: values from {wrong} to {wrong}"):
            universal.decode(ops.convert_to_tensor(np.full((2, 48), wrong, "int32")))
    for length in (0, 2.0, None):
        with pytest.raises(ValueError, match=r"`length` is the number of ids of each text, at least 1. Received: "):
            ByteTokenizer(length)


# One class each


def test_an_id_is_a_byte_and_one():
    assert ByteTokenizer(5).vocabulary == 257
    np.testing.assert_array_equal(ByteTokenizer(5).encode(["A\u00e9\0"]), [[66, 0xC3 + 1, 0xA9 + 1, 1, 0]])
    with pytest.raises(ValueError, match=r"ByteTokenizer has nothing to learn"):
        ByteTokenizer(5).fit(CORPUS)


def test_an_id_is_the_place_in_the_alphabet():
    given = CharacterTokenizer(5, "cab")
    np.testing.assert_array_equal(given.encode(["abc", ""]), [[2, 3, 1, 0, 0], [0] * 5])
    assert given.vocabulary == 4 and given.decode([[3, 2, 1, 0, 0]]) == ["bac"]
    learned = CharacterTokenizer(5).fit(["cab", "", "bb\0"])
    assert learned.state == "\0abc" and learned.vocabulary == 5
    np.testing.assert_array_equal(learned.encode(["\0c"]), [[1, 4, 0, 0, 0]])
    assert learned.fit(["xyz"]).state == "xyz"


def test_errors_of_alphabets_teach():
    with pytest.raises(ValueError, match=r"lacks '!' at 5, '\?' at 0 of the text '\?abba!'.*use `ByteTokenizer`"):
        CharacterTokenizer(9, "ab").encode(["ab", "?abba!"])
    for characters, twice in (("", r"\[\]"), ("aba", r"\['a'\]")):
        with pytest.raises(ValueError, match=rf"distinct, at least one. Received: '{characters}', twice: {twice}"):
            CharacterTokenizer(9, characters)
    with pytest.raises(ValueError, match="half of a character"):
        CharacterTokenizer(9, "a\ud83d")
    with pytest.raises(ValueError, match=r"was given, characters='ab': leave it out"):
        CharacterTokenizer(9, "ab").fit(["abc"])
    with pytest.raises(ValueError, match=r"Received: empty texts only"):
        CharacterTokenizer(9).fit(["", ""])
    with pytest.raises(ValueError, match=r"has learned nothing yet: call `fit`"):
        CharacterTokenizer(9).vocabulary  # noqa: B018


def test_merges_are_learned(bpe):
    assert bpe.vocabulary == 280 and bpe.encode(CORPUS).max() == 279
    number = bpe.mask(bpe.encode(CORPUS)).sum()
    assert number < 0.6 * sum(len(text.encode()) for text in CORPUS)
    assert BPETokenizer(48, 280).fit(iter(CORPUS)).state == bpe.state


def test_errors_of_byte_pairs_teach(monkeypatch):
    with pytest.raises(ValueError, match=r"at least 257: 256 bytes and padding. Received: 256"):
        BPETokenizer(8, 256)
    with pytest.raises(ValueError, match=r"no more than 258 different ids, and vocabulary_size=300.*_size=258"):
        BPETokenizer(8, 300).fit(["ab", "ab"])
    assert BPETokenizer(8, 258).fit(["ab", "ab"]).mask(BPETokenizer(8, 258).fit(["ab"]).encode(["ab"])).sum() == 1
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_mmai\[text\]'"):
        BPETokenizer(8, 300)


@pytest.mark.parametrize("make", [lambda: CharacterTokenizer(48), lambda: BPETokenizer(48, 280)])
def test_learning_takes_any_iterable_of_texts(make):
    expected = make().fit(CORPUS).state
    data = tf.data.Dataset.from_tensor_slices(CORPUS)
    raw = np.array([text.encode() for text in CORPUS])
    for texts in (iter(CORPUS), np.array(CORPUS), raw, data, data.batch(4), [CORPUS[:7], CORPUS[7:]]):
        assert make().fit(texts).state == expected
    for method, value in (("encode", CORPUS), ("decode", np.zeros((1, 48), "int32")), ("truncate", CORPUS)):
        with pytest.raises(ValueError, match=r"has learned nothing yet: call `fit` with texts, or load one"):
            getattr(make(), method)(value)
    with pytest.raises(ValueError, match=r"needs texts. Received: none"):
        make().fit([])
    with pytest.raises(ValueError, match=r"an iterable of texts, such as \[text\]. Received: one, 'abc'"):
        make().fit("abc")
    with pytest.raises(ValueError, match=r"must be str, or bytes in UTF-8. Received: \{'text': 'a'\}"):
        make().fit([{"text": "a"}])


def test_what_has_learned_nothing_is_saved_so(tmp_path):
    BPETokenizer(8, 300).save(tmp_path / "tokenizer.keras")
    with pytest.raises(ValueError, match=r"has learned nothing yet"):
        keras.saving.load_model(tmp_path / "tokenizer.keras").encode(["a"])


def test_tiny_shakespeare(shared):
    path = shared / "data" / "tensorflow_datasets" / "tiny_shakespeare" / "1.0.0"
    records = tf.data.TFRecordDataset(str(path / "tiny_shakespeare-test.tfrecord-00000-of-00001"))
    feature = {"text": tf.io.FixedLenFeature([], tf.string)}
    texts = records.map(lambda record: tf.io.parse_single_example(record, feature)["text"])
    (whole,) = (text.numpy().decode() for text in texts)
    speeches = whole.split("\n\n")
    learned = BPETokenizer(512, 1024).fit(texts)
    fitting = learned.truncate(speeches)
    assert learned.decode(learned.encode(fitting)) == fitting
    number = sum(len(learned.ids_of(text)) for text in speeches)
    assert number < 0.45 * sum(len(text) for text in speeches)
    characters = CharacterTokenizer(64).fit(texts)
    assert characters.vocabulary - 1 == len(set(whole))
