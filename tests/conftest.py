"""Shared by all tests: import order, reproducibility, and where the reference numbers are."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if importlib.util.find_spec("torch"):  # some wheels crash when tensorflow comes first
    import torch  # noqa: F401

import keras
import numpy as np

SHARED = Path(os.environ.get("KERAS_MMAI_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def reproducible():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def shared():
    """The folder of reference numbers and data sets, which a user's checkout does not have."""
    if not SHARED.is_dir():
        pytest.skip("the reference folder is not here (KERAS_MMAI_SHARED names it)")
    return SHARED


@pytest.fixture
def diffusion_fixtures(shared):
    """name -> the arrays of fixtures/diffusion/{name}, numbers of the original implementations, as a dict."""
    folder = shared / "fixtures" / "diffusion"

    def load(name):
        if name.endswith(".safetensors"):
            from safetensors.numpy import load_file

            return load_file(folder / name)
        return dict(np.load(folder / f"{name}.npz"))

    return load
