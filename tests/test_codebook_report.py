import io
import itertools
import math

import matplotlib.image
import numpy as np
import pytest
from keras import ops

from keras_mmai import VAE, VQVAE, layers
from keras_mmai.tokenizers import Standardize, Tokenizer
from keras_mmai.visualization import codebook, codebook_report

SIZES = dict(filters=(8,), num_residual_layers=1, residual_filters=8)


class Means(Tokenizer):
    """The latent of a token is the mean of its cell, so that codes are set by hand."""

    tokens = ("codes", "latents")

    def __init__(self, input_shape, cell, quantizer):
        super().__init__(("reconstruction",))
        self.input_shape, self.cell, self.quantizer = input_shape, cell, quantizer
        self.vocabulary = quantizer.vocabulary
        grid = tuple(s // c for s, c in zip(input_shape, cell))
        self.token_shape, self.latent_shape = (*grid, *quantizer.code_shape), (*grid, input_shape[-1])
        self.standardize = Standardize(dtype="float32")
        self.standardize.build((None, *self.latent_shape))
        if not quantizer.built:
            quantizer.build((None, *self.latent_shape))
        self.built = True

    def means(self, x):
        split = [n for size, c in zip(self.input_shape, self.cell) for n in (size // c, c)]
        x = ops.reshape(x, (-1, *split, self.input_shape[-1]))
        means = ops.mean(x, axis=tuple(range(2, 2 + len(split), 2)))
        return ops.where(means == -1.0, float("nan"), means)  # an encoder that is broken at one place

    def call(self, x, training=False):
        z = self.means(self._check_signal(x))
        return {"outputs": x, "codes": self.quantizer(z)["codes"], "latents": self.standardize(z)}

    def encode_codes(self, x):
        return self.quantizer(self.means(x))["codes"]


VALUES = np.array([-0.75, -0.25, 0.25, 0.75, 9.0], "float32")  # of which the last is out of reach


def scalar(values=VALUES):
    quantizer = layers.VectorQuantizer(len(values), 1, initialization="uniform")
    quantizer.build((None, 1))
    quantizer.embeddings.assign(np.reshape(values, (-1, 1)))
    return quantizer


def waves(codes):
    """Signals (n, 4, 1) of which the two tokens have the given codes (n, 2)."""
    return VALUES[np.asarray(codes)].repeat(2, axis=1)[..., None]


def report_of(codes, labels=None, **kwargs):
    return codebook_report(Means((4, 1), (2,), scalar()), waves(codes), labels, **kwargs)


def test_use_in_exact_numbers():
    report = report_of([[0, 0], [0, 0], [1, 1], [3, 3]])
    (place,) = report["places"]
    assert (report["num_examples"], report["num_tokens"], report["label_entropy"]) == (4, 8, None)
    assert (place["place"], place["vocabulary"], place["codes_in_use"]) == ((), 5, 3)
    np.testing.assert_array_equal(place["counts"], [4, 2, 0, 2, 0])
    np.testing.assert_array_equal(place["dead_codes"], [2, 4])
    assert place["entropy"] == pytest.approx(1.5)
    assert place["perplexity"] == pytest.approx(2**1.5)
    assert place["entropy_share"] == pytest.approx(1.5 / math.log2(5))
    assert place["mutual_information"] is None
    np.testing.assert_array_equal(place["nearest"]["codes"], [0, 1, 3])


def test_one_code_for_everything():
    (place,) = report_of([[2, 2]] * 3, [0, 0, 1])["places"]
    assert (place["entropy"], place["perplexity"], place["mutual_information"]) == (0.0, 1.0, 0.0)


def information(codes, labels):
    report = report_of(codes, labels)
    return report["places"][0]["mutual_information"], report["label_entropy"]


def test_information_is_the_label_entropy_where_the_code_determines_the_label():
    assert information([[0, 0], [1, 1], [2, 2], [3, 3]], list("abcd")) == (2.0, 2.0)
    # more codes than labels, and labels that are not equally frequent
    got, entropy = information([[0, 1], [2, 2], [2, 2], [2, 2]], [7, 5, 5, 5])
    assert got == entropy == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))


def test_information_is_the_code_entropy_where_the_label_determines_the_code():
    assert information([[0, 0], [0, 0], [1, 1], [1, 1]], [0, 1, 2, 3]) == (1.0, 2.0)


def test_information_of_independent_codes_is_zero():
    codes = [[i, j] for i in range(4) for j in range(4)]
    assert information(codes + codes, [0] * 16 + [1] * 16)[0] == 0.0
    # by chance a few tokens seem to tell something: the correction takes nearly all of it
    rng = np.random.default_rng(0)
    corrected = [information(rng.integers(4, size=(300, 2)), rng.integers(10, size=300))[0] for _ in range(5)]
    plug_in = (4 - 1) * (10 - 1) / (2 * 600 * math.log(2))
    assert np.mean(corrected) < 0.3 * plug_in


def test_information_between_is_that_of_miller_and_madow():
    got, _ = information([[0, 0], [0, 0], [1, 1], [0, 1]], [0, 0, 1, 1])
    plug_in = 1.0 - 5 / 8 * (-0.8 * math.log2(0.8) - 0.2 * math.log2(0.2))
    assert got == pytest.approx(plug_in + (2 + 2 - 3 - 1) / (2 * 8 * math.log(2)))


SHAPES = {  # input shape, cell of a token, its context
    "audio": ((8, 1), (2,), (4,)),
    "odd": ((9, 1), (3,), (5,)),
    "image": ((8, 6, 3), (2, 2), (4, 4)),
    "video": ((4, 8, 8, 1), (2, 4, 4), (8, 8)),
    "pixels": ((2, 3, 1), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("input_shape, cell, context", SHAPES.values(), ids=SHAPES)
def test_patches_are_those_of_the_data(input_shape, cell, context):
    data = np.random.default_rng(0).uniform(-1, 1, size=(3, *input_shape)).astype("float32")
    quantizer = layers.VectorQuantizer(4, input_shape[-1], initialization="uniform")
    tokenizer = Means(input_shape, cell, quantizer)
    quantizer.embeddings.assign(np.random.default_rng(1).normal(size=(4, input_shape[-1])))
    nearest = codebook_report(tokenizer, data)["places"][0]["nearest"]
    assert nearest["patches"].shape == (*nearest["distances"].shape, *context, input_shape[-1])

    z = ops.convert_to_numpy(tokenizer.means(data))
    codebook_ = ops.convert_to_numpy(quantizer.codes)
    for column, code in enumerate(nearest["codes"]):
        all_distances = np.linalg.norm(z[..., None, :] - codebook_, axis=-1)
        mine = all_distances[..., code][all_distances.argmin(-1) == code]
        expected = np.sort(mine)[: codebook.NUM_NEAREST]
        np.testing.assert_allclose(nearest["distances"][column, : len(expected)], expected, atol=1e-5)
        for row in range(codebook.NUM_NEAREST):
            example, position = nearest["examples"][column, row], nearest["positions"][column, row]
            patch = nearest["patches"][column, row]
            if row >= len(expected):
                assert example == -1 and (position == -1).all() and np.isnan(patch).all()
                continue
            token = data[example][tuple(slice(p * c, p * c + c) for p, c in zip(position, cell))]
            token = token[cell[0] // 2] if len(cell) == 3 else token
            np.testing.assert_array_equal(patch[tuple(slice(c // 2, c // 2 + c) for c in cell[-len(context) :])], token)
            if (position[-1] == 0) and cell[-1] > 1:
                assert np.isnan(patch[..., 0, :]).all()


def test_a_first_frame_that_is_a_token_by_itself():
    cells = [(4, 3), (2, 0), (2, 0)]
    frames = np.arange(17.0).reshape(17, 1, 1, 1) * np.ones((1, 4, 4, 1))
    assert [codebook._patch(frames, (p, 0, 0), cells)[1, 1, 0] for p in range(5)] == [0, 3, 7, 11, 15]
    wave = np.arange(1.0, 18.0)[:, None]
    np.testing.assert_array_equal(
        [codebook._patch(wave, (p,), cells[:1])[2:6, 0] for p in range(3)],
        [[np.nan, np.nan, np.nan, 1], [2, 3, 4, 5], [6, 7, 8, 9]],
    )


def test_causal_video():
    quantizer = layers.VectorQuantizer(16, 4)
    tokenizer = VQVAE((9, 8, 8, 1), quantizer=quantizer, strides=2, causal=True, **{**SIZES, "filters": (8, 8)})
    data = np.random.default_rng(0).uniform(-1, 1, size=(2, 9, 8, 8, 1)).astype("float32")
    report = codebook_report(tokenizer, data)
    nearest = report["places"][0]["nearest"]
    assert report["num_tokens"] == 2 * 3 * 2 * 2
    found = zip(nearest["examples"].ravel(), nearest["positions"].reshape(-1, 3), nearest["patches"].reshape(-1, 8, 8))
    for example, (time, row, column), patch in found:
        if example >= 0:
            frame = [0, 3, 7][time]  # the first by itself, then those in the middle of 1...4 and 5...8
            expected = data[example, frame, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4, 0]
            np.testing.assert_array_equal(patch[2:6, 2:6], expected)


def test_chunks_change_nothing(monkeypatch):
    data = np.random.default_rng(0).uniform(-1, 1, size=(11, 4, 1)).astype("float32")
    tokenizer, labels = Means((4, 1), (2,), scalar()), np.arange(11) % 3
    (whole,) = codebook_report(tokenizer, data, labels)["places"]
    monkeypatch.setattr(codebook, "BATCH", 2)
    monkeypatch.setattr(codebook, "CHUNK_VALUES", 16)
    (parts,) = codebook_report(tokenizer, data, labels)["places"]
    assert whole["mutual_information"] == parts["mutual_information"] > 0
    np.testing.assert_array_equal(whole["counts"], parts["counts"])
    for name, value in whole["nearest"].items():
        np.testing.assert_array_equal(value, parts["nearest"][name], err_msg=name)


def test_tokens_that_are_not_finite_are_left_out():
    data = waves([[0, 1], [0, 2], [0, 3]])
    data[2, :2] = -1.0
    report = codebook_report(Means((4, 1), (2,), scalar()), data)
    np.testing.assert_array_equal(report["places"][0]["counts"], [2, 1, 1, 1, 0])
    assert report["num_tokens"] == 5
    with pytest.raises(ValueError, match="encoder is broken"):
        codebook_report(Means((4, 1), (2,), scalar()), np.full_like(data, -1.0))


QUANTIZERS = {
    "residual": lambda: layers.ResidualQuantizer([layers.VectorQuantizer(k, 4) for k in (16, 8)]),
    "grid": lambda: layers.FiniteScalarQuantizer((5, 4), embedding_dim=8),
    "grouped": lambda: layers.GroupedQuantizer([layers.VectorQuantizer(16, 4), layers.LookupFreeQuantizer(3)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)
def test_every_place_of_a_vqvae(make):
    tokenizer = VQVAE((8, 8, 1), quantizer=make(), **SIZES)
    data = np.random.default_rng(0).uniform(-1, 1, size=(6, 8, 8, 1)).astype("float32")
    report = codebook_report(tokenizer, {"x": data}, np.arange(6) % 2)
    codes = ops.convert_to_numpy(tokenizer.encode(data)).reshape(6 * 16, -1)
    assert [place["vocabulary"] for place in report["places"]] == list(tokenizer.quantizer.vocabularies)
    assert [place["place"] for place in report["places"]] == list(np.ndindex(*tokenizer.quantizer.code_shape))
    for place, of_place in zip(report["places"], codes.T):
        np.testing.assert_array_equal(place["counts"], np.bincount(of_place, minlength=place["vocabulary"]))
        assert 0.0 <= place["mutual_information"] <= report["label_entropy"] == 1.0
        nearest = place["nearest"]
        tokens = codes.reshape(6, 4, 4, -1)[..., place["place"][0] if place["place"] else 0]
        there = nearest["examples"] >= 0
        found = tokens[(nearest["examples"][there], *nearest["positions"][there].T)]
        np.testing.assert_array_equal(found, np.broadcast_to(nearest["codes"][:, None], there.shape)[there])
        assert (np.diff(nearest["distances"], axis=1)[there[:, 1:]] >= 0).all()


PICTURES = {  # quantizer of latents of one channel, input shape, cell
    "audio": (lambda: scalar(), (64, 1), (16,)),
    "image": (lambda: scalar(), (8, 8, 1), (4, 4)),
    "video": (lambda: scalar(), (4, 8, 8, 1), (2, 4, 4)),
    "levels": (lambda: layers.ResidualQuantizer([scalar(), scalar(VALUES / 4)]), (8, 8, 1), (2, 2)),
    "large": (lambda: layers.FiniteScalarQuantizer((8, 8, 8, 8, 8)), (4, 4, 5), (2, 2)),
    "one code": (lambda: scalar(VALUES[:1]), (4, 1), (1,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("make, input_shape, cell", PICTURES.values(), ids=PICTURES)
def test_texts_are_on_the_page_and_apart(make, input_shape, cell, tmp_path):
    data = np.random.default_rng(0).uniform(-1, 1, size=(40, *input_shape)).astype("float32")
    figure = codebook_report(Means(input_shape, cell, make()), data, np.arange(40) % 10, tmp_path / "a.png")["figure"]
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    memory.seek(0)
    saved = matplotlib.image.imread(tmp_path / "a.png")
    assert saved.shape[1] == 1200
    np.testing.assert_array_equal(saved, matplotlib.image.imread(memory))
    texts = [text for axes in figure.axes for text in axes.texts]
    texts += [text for panel in figure.axes[1:] for text in (panel.xaxis.label, panel.yaxis.label)]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) > 5
    assert all(box.x0 >= 0 and box.x1 <= 1200 and box.y0 >= 0 and box.y1 <= saved.shape[0] for box in boxes)
    for (one, a), (two, b) in itertools.combinations(zip(boxes, texts), 2):
        assert not one.overlaps(two), (a.get_text(), b.get_text())


def test_the_picture_names_what_is_in_the_dict():
    figure = report_of([[0, 0], [0, 0], [1, 1], [3, 3]], list("aabc"))["figure"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:3] == [
        "Means: 4 examples, 8 tokens",
        "3 of 5 codes in use, 2 dead · perplexity 2.8",
        "entropy 1.50 of 2.32 bits a token (65 %) · a code tells 1.50 of the 1.50 bits of the label",
    ]
    assert texts[4:] == ["0", "50.0 %", "1", "25.0 %", "3", "25.0 %"]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: codebook_report(VAE((8, 8, 1), **SIZES), np.zeros((2, 8, 8, 1), "float32")),
            "one quantizer and one grid.*Received: VAE",
        ),
        (lambda: report_of([[0, 1]] * 3, [0, 1]), r"one for each example. Received shape \(2,\) for 3"),
        (lambda: report_of([[0, 1]] * 3, np.eye(3)), r"\(3, 3\) for 3 examples"),
        (lambda: report_of(np.zeros((0, 2), int)), "empty"),
        (lambda: report_of([[0, 1, 2]]), r"takes signals of shape \('b', 4, 1\)"),
        (lambda: report_of([[0, 1], [0, 4]]), r"must lie in \[-1, 1\]"),
        (lambda: report_of([[0, 1]], path="a.pdf"), "end in .png"),
    ],
)
def test_errors_teach(call, message):
    with pytest.raises(ValueError, match=message):
        call()
