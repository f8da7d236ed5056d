import numpy as np
import pytest
from keras import ops

from keras_mmai import DiT
from keras_mmai.checkpoints import load_dit_weights
from keras_mmai.checkpoints.dit import TABLE


@pytest.fixture(scope="module")
def network():
    return DiT((4, 4, 2), patch_size=2, hidden_dim=8, num_layers=2, num_heads=2, mlp_ratio=2.0, num_classes=3)


@pytest.fixture
def weights():
    """A state dict in PyTorch's layout, every number another one."""
    shapes = {
        "x_embedder.proj.weight": (8, 2, 2, 2), "x_embedder.proj.bias": (8,), "pos_embed": (1, 4, 8),
        "t_embedder.mlp.0.weight": (8, 256), "t_embedder.mlp.0.bias": (8,),
        "t_embedder.mlp.2.weight": (8, 8), "t_embedder.mlp.2.bias": (8,),
        "y_embedder.embedding_table.weight": (4, 8),
        "final_layer.adaLN_modulation.1.weight": (16, 8), "final_layer.adaLN_modulation.1.bias": (16,),
        "final_layer.linear.weight": (8, 8), "final_layer.linear.bias": (8,),
    }  # fmt: skip
    for i in range(2):
        for name, shape in {
            "adaLN_modulation.1": (48, 8), "attn.qkv": (24, 8), "attn.proj": (8, 8),
            "mlp.fc1": (16, 8), "mlp.fc2": (8, 16),
        }.items():  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {
        name: np.arange(end - np.prod(shape), end, dtype="float32").reshape(shape)
        for (name, shape), end in zip(shapes.items(), ends)
    }


def numbers(model):
    return {v.path.split("/", 1)[1]: np.array(ops.convert_to_numpy(v)) for v in model.weights}


def test_every_weight_is_set_from_its_own(network, weights):
    load_dit_weights(network, weights)
    ours = numbers(network)
    taken = np.sort(np.concatenate([value.ravel() for value in ours.values()]))
    np.testing.assert_array_equal(taken, np.arange(len(taken)))  # each number once
    np.testing.assert_array_equal(ours["block_1/mlp/expand/kernel"], weights["blocks.1.mlp.fc1.weight"].T)
    np.testing.assert_array_equal(ours["position_table"], weights["pos_embed"][0])
    kernel = ours["patch_embed/projection/kernel"].reshape(2, 2, 2, 8)  # row, column, channel, width
    assert kernel[1, 0, 1, 5] == weights["x_embedder.proj.weight"][5, 1, 1, 0]


def change(weights, kind):
    if kind == "missing":
        del weights["blocks.1.attn.qkv.bias"]
        return "missing: block_1/attention/qkv/bias"
    if kind == "unknown":
        weights["blocks.1.attn.extra.bias"] = np.zeros(3)
        return "unknown here: blocks.1.attn.extra.bias"
    if kind == "one block too many":
        weights["blocks.2.mlp.fc1.bias"] = np.zeros(16)
        return "unknown here: blocks.2.mlp.fc1.bias"
    weights["final_layer.linear.weight"] = np.zeros((9, 8))
    return r"final_layer.linear.weight has shape \(8, 9\), output/dense/kernel needs \(8, 8\)"


KINDS = ["missing", "unknown", "one block too many", "of another shape"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_is_named_and_nothing_is_set(kind, network, weights):
    before = numbers(network)
    with pytest.raises(ValueError, match=change(weights, kind)):
        load_dit_weights(network, weights)
    for path, value in numbers(network).items():
        np.testing.assert_array_equal(value, before[path])


def test_all_problems_are_named_at_once(network, weights):
    messages = [change(weights, kind) for kind in KINDS]
    with pytest.raises(ValueError) as error:
        load_dit_weights(network, weights)
    for message in messages:
        assert message.replace("\\", "") in str(error.value)
    assert len(str(error.value).splitlines()) == 1 + len(KINDS)


def test_a_network_without_labels_refuses_them(weights):
    network = DiT((4, 4, 2), patch_size=2, hidden_dim=8, num_layers=2, num_heads=2, mlp_ratio=2.0)
    with pytest.raises(ValueError, match=r"unknown here: y_embedder.embedding_table.weight"):
        load_dit_weights(network, weights)


def test_the_table_names_nothing_twice():
    for column in (0, 1):
        names = [row[column] for row in TABLE]
        assert len(names) == len(set(names))
