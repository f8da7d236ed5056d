import pytest

from keras_mmai.data import load_tiny_shakespeare


def test_the_parts_of_the_text(shared):
    folder = shared / "data" / "tensorflow_datasets"
    if not (folder / "tiny_shakespeare").is_dir():
        pytest.skip("no prepared Shakespeare")
    text = load_tiny_shakespeare(folder)
    assert {name: len(part) for name, part in text.items()} == {
        "train": 1_003_854,
        "validation": 55_770,
        "test": 55_770,
    }
    assert text["train"].startswith("First Citizen:\nBefore we proceed any further, hear me speak.")
    assert len(set("".join(text.values()))) == 65


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="tiny_shakespeare"):
        load_tiny_shakespeare(tmp_path)
