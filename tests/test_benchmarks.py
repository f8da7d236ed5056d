"""Benchmarks against other packages run from end to end on the active backend, where those packages are installed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from smoke import smoke

from keras_mmai import VQVAE, Modality, MultimodalDiffusionTransformer
from keras_mmai.layers import ResidualQuantizer, SEANetDecoder, SEANetEncoder, VectorQuantizer
from keras_mmai.tokenizers import CharacterTokenizer

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(name, *arguments):
    """What a benchmark printed: standard output and errors."""
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, result.stderr


def need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the benchmark's peer {package} is not installed")


def need_vaes():
    need("multivae")
    if keras.backend.backend() != "torch":
        pytest.skip("the peers run on PyTorch whatever the backend, and what they stand beside is tested on each")


def untrained_generator(path, *others):
    """Saves one of image, sound and `others`."""
    sizes = dict(strides=(4,), patch_size=32, fourier=True)
    sound = VQVAE(
        (2048, 1),
        encoder=SEANetEncoder(4, 16, **sizes),
        decoder=SEANetDecoder(4, 1, **sizes),
        quantizer=ResidualQuantizer([VectorQuantizer(8, 16), VectorQuantizer(8, 16)]),
        sample_rate=8000,
    )
    image = VQVAE((28, 28, 1), filters=(8, 8), quantizer=VectorQuantizer(16, 4))
    modalities = [Modality("image", image), Modality("sound", sound), *others]
    MultimodalDiffusionTransformer(modalities).generator().save(path)


@pytest.mark.slow
def test_speed_of_joint_training():
    need("transfusion_pytorch")
    sizes = ("--width", 32, "--layers", 2, "--side", 3, "--text", 5, "--batch", 2)
    printed, told = run("joint.py", "speed", "--rounds", 2, "--threads", 1, *sizes)
    backend = keras.backend.backend()
    tokens = {name: int(n) for name, n in re.findall(r"(\w+) +[\d,]+ parameters, sequences of (\d+) tokens", told)}
    assert tokens[backend] == 5 + 9 < tokens["peer"] < 5 + 9 + 12
    rows = {name: (float(ms), float(r)) for name, ms, r in re.findall(r"(\w+) +([\d.]+) ms   peer/ours +(.+)", printed)}
    assert set(rows) == {"peer", backend} and rows["peer"][1] == 1
    assert all(ms > 0 and ratio > 0 for ms, ratio in rows.values())


@pytest.mark.slow
def test_joint_vaes(tmp_path):
    pytest.importorskip("mlxtend")
    need_vaes()
    smoke("any_to_any.py", tmp_path)
    printed, _ = run("joint.py", "vaes", tmp_path / "generator.keras", "--smoke", "--output", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["models"].pop("ours")["conditional"]) == set(report["models"]["MoPoE"]["conditional"])
    assert set(report["models"]) == {"MMVAE+", "MVTCAE", "MoPoE"}
    for name, row in report["models"].items():
        assert row["epochs"] == row["best"] == 1 and np.isfinite(row["held-out loss"])
        assert len(row["conditional"]) == 12 and set(row["joint"]) == set(row["joint of mixture"])
        assert row["tokenizer_ceiling"]["word"] == 1.0 and row["tokenizer_ceiling"]["image"] > 0.5
        shares = [share for task in row["conditional"].values() for share in task.values()]
        assert row["mean conditional"] == pytest.approx(np.mean(shares)) and 0 <= min(shares) <= max(shares) <= 1
        for key in ("frechet_distance", "frechet_distance of mixture"):
            assert all(0 < row[key]["real"][name] < x for name, x in row[key]["image_sound_word"].items())
        assert f"{name:7} mean conditional {row['mean conditional']:.3f}" in printed
    # of one epoch it names the digit that it is given as an image or a sound, if not as a word
    assert report["models"]["MMVAE+"]["mean conditional"] > 0.25


@pytest.mark.slow
def test_joint_vaes_of_spoken_digits(tmp_path, shared, monkeypatch):
    need_vaes()
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "spoken_digit").is_dir() or not (folder / "mnist").is_dir():
        pytest.skip("no prepared spoken digits and MNIST")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    untrained_generator(tmp_path / "generator.keras", Modality("word", CharacterTokenizer(5, "efghinorstuvwxz")))
    options = ("--full", "--smoke", "--models", "MoPoE", "--output", tmp_path)
    run("joint.py", "vaes", tmp_path / "generator.keras", *options)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["full"] and set(report["models"]) == {"MoPoE", "ours"}
    for row in report["models"].values():
        assert len(row["conditional"]) == 12 and row["tokenizer_ceiling"]["word"] == 1.0
        assert row["frechet_distance"]["real"]["sound"] < row["frechet_distance"]["image_sound_word"]["sound"]


@pytest.mark.slow
def test_ablations(tmp_path):
    pytest.importorskip("mlxtend")
    untrained_generator(tmp_path / "generator.keras")
    rows = ["no roles", "default", "shared streams, as many weights"]
    rows += ["embeddings of noise levels apart", "all continuous"]
    if keras.backend.backend() != "torch":  # where each of their tasks is compiled
        rows = rows[:2]
    options = ("--digits", 64, "--samples", 10, "--seeds", 3, "--rows", *rows, "--output", tmp_path)
    printed, _ = run("ablations.py", tmp_path / "generator.keras", "--steps", 2, *options)
    report = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert list(report) == rows
    for name, row in report.items():
        assert list(row) == ["3"] and len(row["3"]["tasks"]) == 9
        assert row["3"]["conditional"] == pytest.approx(np.mean(list(row["3"]["tasks"].values())))
        assert {"of images", "of sounds"} < set(row["3"]["frechet_distance"])
        assert f"{name}\n    conditional        {row['3']['conditional']:+.3f} (one seed)" in printed
    for name in rows[1:]:
        assert set(report[name]["3"]["joint"]) == {"at once", "word first"}
    if len(rows) > 1:
        assert len({row["3"]["parameters"] for row in report.values()}) == len(rows) - 1  # without roles as with them
        assert printed.count("less the first row's") == 5 * (len(rows) - 1)
    # what has been measured is not measured again, nor mixed with what was measured otherwise
    again, _ = run("ablations.py", tmp_path / "generator.keras", "--steps", 2, *options)
    assert again == printed[printed.index("no roles\n") :]
    with pytest.raises(AssertionError, match="is of other settings"):
        run("ablations.py", tmp_path / "generator.keras", "--steps", 3, *options)


@pytest.mark.slow
def test_text(tmp_path, shared, monkeypatch):
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "tiny_shakespeare").is_dir():
        pytest.skip("no prepared Shakespeare")
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    printed, _ = run("text.py", "--smoke", "--output", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.dumps(report, indent=1) in printed
    bound, likelihood = report["masked"]["bound, nats per character"], report["twin"]["nats per character"]
    assert 2 < likelihood["mean"] < bound["mean"] < 4.5  # of 66 characters: log 66 is 4.19
    assert report["ratio"] == bound["mean"] / likelihood["mean"]
    by_twin = report["nats per character of samples, by the twin, after steps"]
    assert list(by_twin) == ["4", "16", "64"] and all(2 < row["mean"] < 6 for row in by_twin.values())
    (longer,), (known,) = report["texts"]["goes on, block by block"], report["texts"]["goes on, known"]
    assert len(longer) == 64 + 6 * 32 and longer.startswith(known[:32])
