"""Checkpoints that survive a kill, and from which training goes on bit for bit."""

import json
import os
import pathlib
import warnings

import keras
import numpy as np

FORMAT = "keras_mmai checkpoint 1"
CURRENT, PREVIOUS = "checkpoint.npz", "checkpoint.previous.npz"


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole state of a training at the end of epochs, and resumes from it when `fit` starts.

    The state is weights, moving averages, optimizer, step, random seeds and epoch. With a data set whose order is a
    function of the epoch (`keras_mmai.data.ArrayDataset`, given as `data`), a training that was interrupted and
    started again by the same script ends with the same numbers, on the same backend, as one that was not.

    A checkpoint is written beside its place, synced to disk and renamed, and the one before it is kept: a crash at
    any moment leaves one that can be read.

    Args:
        directory: folder of `checkpoint.npz` and `checkpoint.previous.npz`; it is made if needed.
        every: int, epochs between two checkpoints; the last epoch is always saved.
        data: the `ArrayDataset` that `fit` is given, or None.
        resume: bool; False starts anew and replaces what is there. When it resumes it says so, and the optimizer goes
            on with its saved state, learning rate included; with no epoch left `fit` trains nothing.

    Raises:
        ValueError: when `fit` starts, if the folder holds files that are not checkpoints, or one of another model.
    """

    def __init__(self, directory, every=1, data=None, resume=True):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: {every}")
        self.directory = pathlib.Path(directory)
        self.every = every
        self.data = data
        self.resume = resume

    def on_train_begin(self, logs=None):
        if self.resume and (epoch := restore(self.model, self.directory)) is not None:
            print(f"Resuming after epoch {epoch} from {self.directory}")
            if self.data is not None:
                self.data.epoch = epoch
            self.model._initial_epoch = epoch  # what keras.callbacks.BackupAndRestore sets, too

    def on_epoch_end(self, epoch, logs=None):
        self._last = epoch
        if (epoch + 1) % self.every == 0:
            self._save()

    def on_train_end(self, logs=None):
        if (getattr(self, "_last", -1) + 1) % self.every:
            self._save()
        self.model._initial_epoch = None

    def _save(self):
        save(self.model, self.directory, self._last + 1)


def _state(model):
    """Every variable that training changes, by a name that says where it comes from."""
    variables = list(model.variables)
    if model.optimizer is not None:
        if not model.optimizer.built:  # TensorFlow and PyTorch build it in the first step
            model.optimizer.build(model.trainable_variables)
        variables += model.optimizer.variables
    return {f"{i:05d} {v.path}": v for i, v in enumerate(variables)}


def _kind(model):
    return {"model": type(model).__name__, "optimizer": type(model.optimizer).__name__}


def save(model, directory, epoch):
    """Writes the state of `model` after `epoch` epochs to `directory`, atomically."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    beside = directory / f"{CURRENT}.writing"
    state = {name: _to_numpy(v) for name, v in _state(model).items()}
    about = dict(format=FORMAT, epoch=epoch, **_kind(model))
    with open(beside, "wb") as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), "uint8"), **state)
        file.flush()
        os.fsync(file.fileno())
    current = directory / CURRENT
    if current.exists():
        os.replace(current, directory / PREVIOUS)
    os.replace(beside, current)
    folder = os.open(directory, os.O_RDONLY)
    os.fsync(folder)  # the renames themselves
    os.close(folder)


def _to_numpy(variable):
    value = keras.ops.convert_to_numpy(variable.value)
    return value.astype("float32") if value.dtype.kind == "V" else value  # numpy's files do not know bfloat16


def restore(model, directory):
    """Sets the state of `model` from `directory`; returns the number of finished epochs, None if there is nothing.

    A checkpoint that can't be read is passed over for the previous one.

    Raises:
        ValueError: if neither can be read, or they are of another model. The model is unchanged then.
    """
    paths = [path for path in (pathlib.Path(directory) / CURRENT, pathlib.Path(directory) / PREVIOUS) if path.exists()]
    unreadable = []
    for path in paths:
        try:
            about, values = _read(path)
        except Exception as error:  # damage to a zip file shows itself in many ways
            unreadable.append(f"{path}: {error}")
            continue
        _assign(model, about, values, path)
        if unreadable:
            warnings.warn(f"{unreadable[0]}. Restored {path} instead.", stacklevel=2)
        return about["epoch"]
    if unreadable:
        raise ValueError(
            "No checkpoint can be read:\n" + "\n".join(unreadable) + "\nMove these files away, or pass "
            "resume=False to start anew."
        )
    return None


def _read(path):
    with np.load(path, allow_pickle=False) as file:
        if "about" not in file.files:
            raise ValueError("not a checkpoint of keras_mmai")
        about = json.loads(file["about"].tobytes())
        if about.get("format") != FORMAT:
            raise ValueError(f"of format {about.get('format')!r}, this version reads {FORMAT!r}")
        return about, {name: file[name] for name in file.files if name != "about"}


def _assign(model, about, values, path):
    state = _state(model)
    ours = [tuple(v.shape) for v in state.values()]
    theirs = [value.shape for value in values.values()]
    kind = {name: about.get(name) for name in _kind(model)}
    if kind != _kind(model) or ours != theirs:
        difference = next(
            (
                f"{a} {v.shape} here, {b} {values[b].shape} there"
                for (a, v), b in zip(state.items(), values)
                if tuple(v.shape) != values[b].shape
            ),
            f"{_kind(model)} and {len(ours)} variables here, {kind} and {len(theirs)} there",
        )
        raise ValueError(
            f"{path} is of another model or optimizer ({about['model']}): {difference}. Build and compile "
            "the model as it was, choose another directory, or pass resume=False to start anew."
        )
    for variable, value in zip(state.values(), values.values()):
        variable.assign(value)
