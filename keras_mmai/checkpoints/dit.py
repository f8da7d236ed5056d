"""DiT's published weights into `keras_mmai.DiT`, by one table of names."""

import re

import numpy as np


def _kernel(value):
    return value.T


def _patch_kernel(value):
    """(d, c, *patch) to (prod(patch) * c, d), channel last inside a patch."""
    return np.moveaxis(value, (0, 1), (-1, -2)).reshape(-1, value.shape[0])


def _same(value):
    return value


# (foreign name, path of ours, transform of the value); {} is a block's number
TABLE = [
    ("x_embedder.proj.weight", "patch_embed/projection/kernel", _patch_kernel),
    ("x_embedder.proj.bias", "patch_embed/projection/bias", _same),
    ("pos_embed", "position_table", lambda value: value[0]),
    ("y_embedder.embedding_table.weight", "label_embed/table/embeddings", _same),
    *[
        (f"{foreign}.{kind}", f"{ours}/{name}", transform)
        for foreign, ours in [
            ("t_embedder.mlp.0", "time_embed/expand"),
            ("t_embedder.mlp.2", "time_embed/project"),
            ("blocks.{}.adaLN_modulation.1", "block_{}/modulation/dense"),
            ("blocks.{}.attn.qkv", "block_{}/attention/qkv"),
            ("blocks.{}.attn.proj", "block_{}/attention/projection"),
            ("blocks.{}.mlp.fc1", "block_{}/mlp/expand"),
            ("blocks.{}.mlp.fc2", "block_{}/mlp/project"),
            ("final_layer.adaLN_modulation.1", "output/modulation/dense"),
            ("final_layer.linear", "output/dense"),
        ]
        for kind, name, transform in [("weight", "kernel", _kernel), ("bias", "bias", _same)]
    ],
]


def our_name(foreign):
    """The path of ours and the transform for a foreign name, or None if the table has none."""
    number = re.search(r"\.(\d+)\.", foreign) if foreign.startswith("blocks.") else None
    pattern = foreign.replace(number.group(0), ".{}.", 1) if number else foreign
    for name, path, transform in TABLE:
        if name == pattern:
            return path.format(number.group(1) if number else ""), transform
    return None


def load_dit_weights(model, state_dict):
    """Sets the weights of a `DiT` from the state dict of the DiT paper's PyTorch code.

    Build the model with `time_scale=1.0` and give it the integer steps 0..999 that such a network was trained on, as
    float32 times.

    Args:
        model: a `DiT` of the same sizes.
        state_dict: {name: numpy array}, such as `safetensors.numpy.load_file` returns; PyTorch's layout.

    Raises:
        ValueError: naming every weight that is missing, unknown or of another shape. Nothing is set then.
    """
    ours = {v.path.split("/", 1)[1]: v for v in model.weights}
    values, problems = {}, []
    for foreign, value in state_dict.items():
        found = our_name(foreign)
        if found is None or found[0] not in ours:
            problems.append(f"unknown here: {foreign}")
            continue
        path, transform = found
        values[path] = transform(np.asarray(value))
        if values[path].shape != tuple(ours[path].shape):
            problems.append(f"{foreign} has shape {values[path].shape}, {path} needs {tuple(ours[path].shape)}")
    problems += [f"missing: {path}" for path in ours if path not in values]
    if problems:
        raise ValueError("The weights do not fit the model:\n" + "\n".join(problems))
    for path, value in values.items():
        ours[path].assign(value)
