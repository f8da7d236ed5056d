"""Examples of several modalities, run from end to end on the active backend, a few steps of everything."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from smoke import EXAMPLES, smoke

from keras_mmai import VQVAE
from keras_mmai.data import load_mnist, load_spoken_digits
from keras_mmai.layers import ResidualQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer


@pytest.mark.slow
def test_any_to_any(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("any_to_any.py", tmp_path)
    assert len(report["conditional"]) == 2 and len(report["joint"]) == 1
    assert report["tokenizer_ceiling"]["word"] == 1.0 and report["tokenizer_ceiling"]["image"] > 0.5
    shares = [
        x / report["tokenizer_ceiling"][name] for found in report["conditional"].values() for name, x in found.items()
    ]
    assert len(shares) == 3 and report["conditional_over_ceiling"] == pytest.approx(np.mean(shares))
    assert 0 <= report["valid"]["image_sound_word"]["word"] <= 1
    assert all(0 <= x <= 1 for x in report["class_entropy"]["image_sound_word"].values())
    assert set(report["seconds"]) == {"tokenizers", "tokens", "transformer", "judges", "sampling and judging", "total"}
    distances = report["frechet_distance"]
    assert all(0 < distances["real"][name] < x for name, x in distances["image_sound_word"].items())
    for name in ("images.png", "inpainted.png", "matrix.png", "seven.wav", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000
    look = [sys.executable, EXAMPLES / "look_inside.py", tmp_path / "generator.keras", "--smoke", "--output", tmp_path]
    result = subprocess.run(look, capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["importance for the word"]["values"]) == {"image", "sound"}
    for name in ("attention", "importance", "importance_half", "levels", "levels_of_word", "trajectory"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.fixture
def spoken(tmp_path, shared):
    """The folder of prepared digits, and an untrained codec of them."""
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "spoken_digit").is_dir() or not (folder / "mnist").is_dir():
        pytest.skip("no prepared spoken digits and MNIST")
    sizes = dict(strides=(4,), patch_size=32, fourier=True)
    encoder, decoder = SEANetEncoder(4, 16, **sizes), SEANetDecoder(4, 1, **sizes)
    quantizer = ResidualQuantizer([VectorQuantizer(16, 16), VectorQuantizer(16, 16)])
    VQVAE((4096, 1), encoder=encoder, decoder=decoder, quantizer=quantizer, sample_rate=8000).save(tmp_path / "c.keras")
    return str(folder), tmp_path / "c.keras"


@pytest.fixture
def shakespeare(shared):
    """The folder of the prepared text."""
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "tiny_shakespeare").is_dir():
        pytest.skip("no prepared Shakespeare")
    return str(folder)


@pytest.mark.slow
def test_any_to_any_of_spoken_digits(tmp_path, spoken):
    folder, codec = spoken
    report, _ = smoke("any_to_any.py", tmp_path, TFDS_DATA_DIR=folder, arguments=("--full", codec, "--heard", "0.2"))
    assert len(report["conditional"]) == 2 and len(report["joint"]) == 1
    assert report["arguments"]["heard"] == 0.2 and report["arguments"]["full"] == str(codec)
    distances = report["frechet_distance"]
    assert 0 < distances["real"]["sound"] < distances["image_sound_word"]["sound"]
    assert (tmp_path / "matrix.png").stat().st_size > 1000


def test_recordings_are_of_the_digits_beside_them(spoken, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", spoken[0])
    monkeypatch.syspath_prepend(EXAMPLES)
    from recipe import WORDS, spoken_digit_signals

    (train, train_labels), (test, labels) = spoken_digit_signals(2048, 300)
    digits, recorded = load_mnist("tfds"), load_spoken_digits(num_samples=2048)
    assert train["image"].shape == (300, 28, 28, 1) and train["sound"].shape == (300, 2048, 1)
    np.testing.assert_array_equal(train["image"], digits["train"]["images"][:300])
    np.testing.assert_array_equal(train_labels, digits["train"]["labels"][:300])
    assert train["word"] == [WORDS[label] for label in train_labels]
    np.testing.assert_array_equal(test["sound"], recorded["test"]["waveforms"])
    np.testing.assert_array_equal(labels, recorded["test"]["labels"])
    spectra = np.abs(np.fft.rfft(train["sound"][:, :, 0]))[:, :500]
    real = np.abs(np.fft.rfft(recorded["train"]["waveforms"][:, :, 0]))[:, :500]
    spectra, real = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (spectra, real))
    nearest = recorded["train"]["labels"][np.argmax(spectra @ real.T, axis=1)]
    assert np.mean(nearest == train_labels) > 0.6  # a varied recording is nearest to itself
    images = {image.tobytes(): label for image, label in zip(digits["test"]["images"], digits["test"]["labels"])}
    assert [images[image.tobytes()] for image in test["image"]] == labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["latents", "codes"])
def test_spoken_digits(tokens, tmp_path, spoken):
    folder, codec = spoken
    arguments = ("--codec", codec, "--tokens", tokens)
    report, _ = smoke("spoken_digits.py", tmp_path, TFDS_DATA_DIR=folder, arguments=arguments)
    (made,) = (m for m in keras.models.load_model(tmp_path / "generator.keras").modalities if not m.adaln)
    assert made.tokens == tokens
    assert report["real"]["digits understood"] > 0.5 and report["real"]["voices recognised"] > 0.5
    assert 0.8 < report["real"]["entropy of voices"] <= 1
    for name in ("guidance 2.0", "guidance 1.0"):
        assert 0 <= report[name]["digits understood"] <= 1 and 0 <= report[name]["entropy of voices"] <= 1
        assert report[name]["Frechet distance"] > report["real"]["Frechet distance"] > 0  # hardly anything was learned
    samples = np.load(tmp_path / "samples.npz")
    assert samples["guidance 2.0"].shape == (40, 4096, 1) and samples["labels"].tolist() == list(range(10)) * 4
    for name in ("spectrograms.png", "7.wav", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_fusion(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("fusion.py", tmp_path)
    for way in ("classify", "linear probe"):
        share = {name: row["mean"] for name, row in report[way].items()}
        alone = max(share["image"], share["sound"])
        assert share["both, less the better alone"] == pytest.approx(share["both"] - alone)
        assert 0.05 < share["sound"] < 0.95
        row = report[way]["both"]
        assert row["standard error"] == pytest.approx((row["mean"] * (1 - row["mean"]) / 200) ** 0.5)
    for name in ("said.png", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("patch, attention", [(2, "full"), (1, "factorized")])
def test_moving_digits(patch, attention, tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("moving_digits.py", tmp_path, arguments=("--patch", str(patch), "--attention", attention))
    network = keras.models.load_model(tmp_path / "generator.keras").network
    assert network.attention == attention and network.spaces["video"].grid == (16, 2 // patch, 2 // patch)
    errors = {name: row["mean"] for name, row in report["squared error"].items()}
    assert 0 < errors["mean of 2 samples"] < 1.1 * errors["one sample"]  # below the mean of both
    assert 0 < errors["black"] < errors["last frame given"] < errors["one sample"]  # hardly anything was learned
    for name, row in report["digits"].items():
        assert row["frames of the commonest"] >= 2 / 16  # of ten digits and 16 frames
        assert ("frames of the true digit, of the last" in row) == (name != "generated")
    tokenizer = keras.models.load_model(tmp_path / "tokenizer.keras", compile=False)
    video = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32, 1)).astype("float32")
    tokens = keras.ops.convert_to_numpy(tokenizer.encode(video))
    video[:, 8:] = -1.0
    without = keras.ops.convert_to_numpy(tokenizer.encode(video))
    np.testing.assert_allclose(without[:, :8], tokens[:, :8], atol=1e-5)  # a beginning says nothing of the rest
    assert np.abs(without - tokens)[:, 8:].max() > 0.01
    for name in ("continued.png", "generated.png", "videos.gif", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_shakespeare(tmp_path, shakespeare):
    report, _ = smoke("shakespeare.py", tmp_path, TFDS_DATA_DIR=shakespeare)
    assert 2.5 < report["bound, nats per character"]["mean"] < 4.5  # of 66 characters: log 66 is 4.19
    held_out = report["words"].pop("held out")["seen"]["mean"]
    assert list(report["words"]) == ["temperature 1.0", "temperature 0.6"]
    for rows in report["words"].values():
        assert list(rows) == ["4", "16", "64"]
        assert all(row["seen"]["mean"] < 0.8 < held_out for row in rows.values())  # hardly anything was learned
    rows = [line.split(": ", 1) for line in (tmp_path / "texts.txt").read_text().splitlines()]
    texts = {name: [text.replace(" / ", "\n") for key, text in rows if key == name] for name, _ in rows}
    assert {name: {*map(len, x)} for name, x in texts.items() if "block" in name} == {"goes on, block by block": {128}}
    for name in ("goes on", "filled in"):
        for known, text in zip(texts[f"{name}, known"], texts[name]):
            assert len(text) == 64 and all(a in ("_", b) for a, b in zip(known, text))
    for name in ("words.png", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


def test_windows_with_a_mask_and_its_complement(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    from shakespeare import BATCH, LENGTH, noisy_pairs

    ids = np.arange(2 * BATCH * LENGTH, dtype="int32").reshape(-1, LENGTH)
    pairs, weights = noisy_pairs(ids, np.random.default_rng(0), masks=3)
    assert {len(x) for x in (pairs["text"], weights)} == {2 * 3 * len(ids)}
    t, noise, known = (pairs[key]["text"].reshape(2, 3, 2, BATCH, -1) for key in ("t", "noise", "known"))
    masked = noise < t
    np.testing.assert_array_equal(masked[:, :, 0], ~masked[:, :, 1])  # every character is told once
    np.testing.assert_array_equal(known[:, :, 0], known[:, :, 1])
    assert (masked[:, 0] != masked[:, 1]).any(axis=(1, 2, 3)).all()  # each mask is another
    for same in pairs["text"].reshape(2, 3, 2, BATCH, LENGTH).transpose(1, 2, 0, 3, 4).reshape(6, -1, LENGTH):
        np.testing.assert_array_equal(same, ids)
    assert (np.sort(t[:, :, 0, :, 0]) * 2 * BATCH // 1 == np.arange(BATCH)).all()  # one in each stratum of (0, 1/2)
    np.testing.assert_allclose(weights**2, 2.25 * t.ravel(), rtol=1e-6)
    assert weights.mean() == pytest.approx(1, abs=0.01)


def test_noise_of_a_complement_stays_below_1(monkeypatch):
    """Also where a number that is drawn is 0, which one of 16 million is: `fit` refuses noise of 1."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from shakespeare import BATCH, LENGTH, noisy_pairs

    class Zeros(np.random.Generator):
        def random(self, size=None, dtype="float64"):
            return np.zeros(size, dtype)

    ids = np.zeros((BATCH, LENGTH), "int32")
    t, noise = (noisy_pairs(ids, Zeros(np.random.PCG64(0)))[0][key]["text"] for key in ("t", "noise"))
    noise, t = noise.reshape(2, BATCH, LENGTH), t.reshape(2, BATCH, 1)
    assert noise.dtype == np.float32 and noise.min() >= 0 and noise.max() < 1
    masked = (noise < t)[:, t[0, :, 0] > 0]
    assert masked[0].all() and not masked[1].any()


@pytest.mark.slow
def test_own_modality(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("own_modality.py", tmp_path)
    assert len(report) == 5 and 0 <= report["made-up wines of the right grower"] <= 1
    assert report["error over deviation"]["the mean instead"] == pytest.approx(0.965, abs=1e-3)
    assert (tmp_path / "generator.keras").stat().st_size > 1000
