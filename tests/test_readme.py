"""The README's Python blocks run as they stand, on fewer digits and epochs."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_mmai

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, tmp_path, monkeypatch):
    digits = np.random.RandomState(0).uniform(-1, 1, (64, 28, 28, 1)).astype("float32")
    few = {"images": digits, "labels": np.arange(64, dtype="int32") % 10}
    monkeypatch.setattr(keras_mmai.data, "load_mnist", lambda *_, **__: {"train": few, "test": few})
    fit = keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **kw: fit(*a, **{**kw, "epochs": 1, "verbose": 0}))
    shutil.copy(Path(__file__).resolve().parents[1] / "LICENSE", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS[number], {})


@pytest.mark.parametrize("heading", ["## Run it", "## Test it"])
def test_one_line_does_the_set_up(heading):
    after = README.split(heading + "\n", 1)[1]
    block = re.match(r"\n```bash\n(.*?)```", after, re.DOTALL)
    assert block and len(block.group(1).strip().splitlines()) == 1
