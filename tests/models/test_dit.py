"""DiT against the original implementation's numbers, its table of sizes, and every option of ours."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import DiT, diffusion
from keras_mmai.checkpoints import load_dit_weights
from keras_mmai.checkpoints.dit import our_name
from keras_mmai.layers.dit import modulate

GOLDENS = Path(__file__).parents[1] / "goldens"
# the original's sizes: input (h, w, c), and arguments
TINY = {
    "a1_dit_tiny_sigma": (
        (8, 8, 4),
        dict(patch_size=2, hidden_dim=64, num_layers=2, num_heads=4, num_classes=10, out_channels=8),
    ),
    "a2_dit_tiny_nosigma": ((8, 8, 4), dict(patch_size=2, hidden_dim=48, num_layers=2, num_heads=3, num_classes=10)),
    "a3_dit_pixel_p4": (
        (12, 12, 3),
        dict(patch_size=4, hidden_dim=32, num_layers=1, num_heads=2, mlp_ratio=3.0, num_classes=5),
    ),
}
PARAMETERS = {  # the original code's counts, with and without the fixed position table
    "S/8": (33_148_160, 33_142_016), "S/4": (32_945_024, 32_920_448), "S/2": (32_963_360, 32_865_056),
    "B/8": (130_881_536, 130_869_248), "B/4": (130_475_648, 130_426_496), "B/2": (130_512_416, 130_315_808),
    "L/8": (458_594_816, 458_578_432), "L/4": (458_053_760, 457_988_224), "L/2": (458_102_816, 457_840_672),
    "XL/8": (675_683_072, 675_664_640), "XL/4": (675_074_432, 675_000_704), "XL/2": (675_129_632, 674_834_720),
}  # fmt: skip
SMALL = dict(hidden_dim=16, num_layers=2, num_heads=2)

pytestmark = pytest.mark.usefixtures("numpy_initializers")


def last(x):
    """Channels first to channels last."""
    return np.moveaxis(x, 1, -1)


def numbers(x):
    x = x.detach() if hasattr(x, "detach") else x
    return np.asarray(ops.convert_to_numpy(x))


def call(network, *inputs, **kwargs):
    """The network's output as a numpy array; compiled on JAX, where op by op takes many times longer."""
    inputs = [ops.convert_to_tensor(value) for value in inputs]
    if keras.backend.backend() != "jax":
        return numbers(ops.cast(network(*inputs, **kwargs), "float32"))
    import jax

    @jax.jit
    def stateless(state, inputs):
        with keras.StatelessScope(state_mapping=list(zip(network.variables, state)), collect_losses=True):
            return ops.cast(network(*inputs, **kwargs), "float32")

    return numbers(stateless([v.value for v in network.variables], inputs))


@pytest.fixture(
    params=[
        "a1_dit_tiny_sigma",
        pytest.param("a2_dit_tiny_nosigma", marks=pytest.mark.slow),
        "a3_dit_pixel_p4",
    ]
)
def original(request, diffusion_fixtures):
    """(our network with the original's weights, the original's inputs and outputs)."""
    shape, arguments = TINY[request.param]
    network = DiT(shape, time_scale=1.0, **arguments)
    load_dit_weights(network, diffusion_fixtures(f"{request.param}.safetensors"))
    return network, diffusion_fixtures(request.param)


def inputs_of(golden, prefix=""):
    x, t, y = (golden[prefix + name] for name in "xty")
    return [ops.convert_to_tensor(v) for v in (last(x), t.astype("float32"), y.astype("int32"))]


def test_output(original):
    network, golden = original
    output = call(network, *inputs_of(golden))
    for name in ("output", "output_f64"):
        np.testing.assert_allclose(output, last(golden[name]), atol=2e-5)


def test_activations(original):
    network, golden = original
    x, t, y = inputs_of(golden)

    def check(name, value):
        np.testing.assert_allclose(numbers(value), golden[f"act_{name}"], atol=2e-5, err_msg=name)

    x = network.patch_embed(x)
    check("patch_embed", x)
    x = x + network.position_table
    time, label = network.time_embed(t), network.label_embed(y)
    check("t_emb", time)
    check("y_emb", label)
    condition = time + label
    for i, block in enumerate(network.blocks):
        shift_1, scale_1, gate_1, shift_2, scale_2, _ = block.modulation(condition)
        attention = block.attention(modulate(block.norm_1(x), shift_1, scale_1))
        check(f"block{i}_attn", attention)
        between = x + gate_1 * attention
        check(f"block{i}_mlp", block.mlp(modulate(block.norm_2(between), shift_2, scale_2)))
        x = block(x, condition)
        check(f"block{i}", x)
    check("final_tokens", network.output_layer(x, condition))


def update(optimizer, gradients, variables):
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, variables)
        return
    import jax

    optimizer.build(variables)
    state = [v.value for v in optimizer.variables]
    values, _ = jax.jit(optimizer.stateless_apply)(state, gradients, [v.value for v in variables])
    for variable, value in zip(variables, values):
        variable.assign(value)


def as_the_original_stores(name, value, network):
    if name == "x_embedder.proj.weight":
        channels = network.input_shape[-1]
        return value.reshape(*network.patch_size, channels, -1).transpose(3, 2, 0, 1)
    return value.T if name.endswith(".weight") and "embedding_table" not in name else value


def test_gradients_and_one_step(original, gradients):
    network, golden = original
    inputs, variables = inputs_of(golden), network.trainable_variables
    value, slopes = gradients(lambda: ops.mean(ops.square(network(*inputs))), [], variables)
    np.testing.assert_allclose(value, golden["grad_loss"], rtol=1e-5)
    by_path = {v.path.split("/", 1)[1]: slope for v, slope in zip(variables, slopes)}
    assert len(by_path) == len(golden["grad_names"])
    for name, norm, first in zip(golden["grad_names"], golden["grad_norms"], golden["grad_first8"]):
        gradient = as_the_original_stores(name, by_path[our_name(name)[0]], network)
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-4, err_msg=name)
        size = np.abs(gradient).max()
        np.testing.assert_allclose(gradient.ravel()[:8], first, rtol=1e-4, atol=1e-4 * size, err_msg=name)

    # PyTorch adds its epsilon, 1e-8, after the bias correction, and Keras before
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.0, epsilon=1e-8 * np.sqrt(1 - 0.999))
    update(optimizer, [ops.convert_to_tensor(slope) for slope in slopes], variables)
    after = last(golden["output_after_one_adamw_lr1e-3"])
    assert np.abs(after - last(golden["output"])).max() > 0.01
    np.testing.assert_allclose(call(network, *inputs), after, atol=2e-5)


def test_guidance(original):
    network, golden = original
    x, t, y = inputs_of(golden, "cfg_")
    guidance = diffusion.ClassifierFreeGuidance(float(golden["cfg_scale"]))

    def predict(x, t, conditions):
        return call(network, x, t, conditions["labels"])

    output = guidance(predict, x[:2], t[:2], {"labels": y[:2]}, {"labels": y[2:]})
    guided = network.input_shape[-1]  # the original leaves the variance channels as they are
    np.testing.assert_allclose(
        numbers(output)[..., :guided], last(golden["cfg_output_allch"])[:2, ..., :guided], atol=5e-5
    )


def hashed(shape, seed, scale):
    """Pseudo-random numbers in +-scale from integers, the same everywhere: splitmix64."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, np.prod(shape) + 1, dtype="uint64") + np.uint64(seed * 1_000_003)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (scale * (2 * ((z >> np.uint64(11)) * 2.0**-53) - 1)).astype("float32").reshape(shape)


def original_shape(name, network):
    """Shape of a weight in the original's layout."""
    ours = {v.path.split("/", 1)[1]: tuple(v.shape) for v in network.weights}
    return as_the_original_stores(name, np.empty(ours[our_name(name)[0]], "float32"), network).shape


def test_dit_s2_without_the_reference_folder():
    """DiT-S/2 whole: weights from integers, numbers of the original from a small file of this repository."""
    golden = np.load(GOLDENS / "dit_s2.npz")
    network = DiT.from_size("S/2", (32, 32, 4), num_classes=1000, out_channels=8, time_scale=1.0)
    weights = {"pos_embed": numbers(network.position_table)[None]}
    for k, (name, scale) in enumerate(zip(golden["param_names"], golden["param_scale"])):
        weights[name] = hashed(original_shape(name, network), 10 + k, scale)
        np.testing.assert_allclose(weights[name].sum(dtype="float64"), golden["param_sum"][k], atol=1e-3)
    load_dit_weights(network, weights)
    assert network.count_params() == golden["n_params"]
    x = last(hashed((2, 4, 32, 32), 100_010, 1.7320508))
    np.testing.assert_allclose(x[:, :2, :2], last(golden["x_corner"]), atol=1e-6)
    output = call(network, x, golden["t"].astype("float32"), golden["y"].astype("int32"))
    np.testing.assert_allclose(output[:, :6, :6], last(golden["output_corner"]), atol=5e-5)
    np.testing.assert_allclose(output[:, 14:18, 14:18], last(golden["output_mid"]), atol=5e-5)
    np.testing.assert_allclose(output.mean((1, 2), dtype="float64"), golden["output_mean"], atol=1e-5)
    np.testing.assert_allclose(output.std((1, 2), ddof=1, dtype="float64"), golden["output_std"], atol=1e-5)
    np.testing.assert_allclose(np.abs(output).sum(dtype="float64"), golden["output_abs_sum"], rtol=1e-5)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    """Of every size, counted on variables that have shapes but no values yet."""
    with keras.StatelessScope(initialize_variables=False):
        network = DiT.from_size(name, (32, 32, 4), num_classes=1000, out_channels=8)
        trainable = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
        total = sum(int(np.prod(v.shape)) for v in network.weights)
    keras.utils.clear_session()  # forgets the variables that still wait for their values
    assert (total, trainable) == PARAMETERS[name]
    assert network.patch_size == (int(name[-1]),) * 2


def filled(*args, **kwargs):
    """A network with no silent part: all weights, also those that start at zero."""
    network = DiT(*args, **kwargs)
    rng = np.random.default_rng(1)
    for v in network.trainable_variables:
        v.assign(rng.normal(size=v.shape) / np.sqrt(max(1, np.prod(v.shape[:-1]))))
    return network


def batch(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, *shape)).astype("float32"), np.array([0.1, 0.5, 0.9], "float32")


@pytest.mark.parametrize(
    "positions, feed_forward, qk_norm",
    [("sincos", "gelu", True), ("rotary", "gelu", False), ("rotary", "swiglu", True)],
)
def test_variants_save_and_load(positions, feed_forward, qk_norm, tmp_path):
    network = filled((4, 6, 2), patch_size=2, num_classes=3, qk_norm=qk_norm, feed_forward=feed_forward,
                     positions=positions, **SMALL)  # fmt: skip
    x, t = batch((4, 6, 2))
    output = call(network, x, t, np.array([0, 2, 3], "int32"))
    assert output.shape == x.shape and np.isfinite(output).all() and output.std() > 0.1
    network.save(tmp_path / "dit.keras")
    loaded = keras.models.load_model(tmp_path / "dit.keras")
    assert loaded.get_config() == network.get_config()
    np.testing.assert_array_equal(call(loaded, x, t, np.array([0, 2, 3], "int32")), output)
    without = call(network, x[:, ::-1].copy(), t, np.array([0, 2, 3], "int32"))[:, ::-1]
    assert np.abs(without - output).max() > 1e-2  # it knows where its tokens are


@pytest.mark.parametrize("shape, patch", [((12, 2), 4), ((4, 6, 2), (2, 3)), ((2, 4, 4, 1), (1, 2, 2))])
def test_any_rank(shape, patch):
    network = filled(shape, patch_size=patch, out_channels=3, **SMALL)
    x, t = batch(shape)
    assert call(network, x, t).shape == (3, *shape[:-1], 3) == network.compute_output_shape(x.shape)


def test_starts_at_zero():
    network = DiT((4, 4, 2), num_classes=3, **SMALL)
    x, t = batch((4, 4, 2))
    assert not call(network, x, t).any()


def test_no_label_is_the_null_class():
    network = filled((4, 4, 2), num_classes=3, **SMALL)
    x, t = batch((4, 4, 2))
    null = call(network, x, t, np.full(3, 3, "int32"))
    np.testing.assert_allclose(call(network, x, t), null, atol=1e-6)
    assert np.abs(call(network, x, t, np.zeros(3, "int32")) - null).max() > 1e-2


def test_labels_are_dropped_in_training_only():
    network = filled((4, 4, 2), num_classes=3, label_dropout=1.0, **SMALL)
    x, t = batch((4, 4, 2))
    labels = np.zeros(3, "int32")
    np.testing.assert_allclose(call(network, x, t, labels, training=True), call(network, x, t), atol=1e-6)
    assert np.abs(call(network, x, t, labels) - call(network, x, t)).max() > 1e-2


def test_a_network_without_labels():
    network = filled((4, 4, 2), **SMALL)
    assert network.label_embed is None
    x, t = batch((4, 4, 2))
    assert np.abs(call(network, x, t) - call(network, x, t[::-1].copy())).max() > 1e-2  # but with time
    with pytest.raises(ValueError, match="num_classes=None: it takes no `labels`"):
        network(ops.convert_to_tensor(x), ops.convert_to_tensor(t), np.zeros(3, "int32"))


def test_masked_patches_do_not_influence_the_others():
    network = filled((8, 2), patch_size=2, **SMALL)
    x, t = batch((8, 2))
    mask = np.tile([True, True, True, False], (3, 1))
    changed = x.copy()
    changed[:, 6:] = 50.0
    masked = call(network, x, t, mask=ops.convert_to_tensor(mask))
    np.testing.assert_allclose(
        call(network, changed, t, mask=ops.convert_to_tensor(mask))[:, :6], masked[:, :6], atol=1e-5
    )
    assert np.abs(call(network, changed, t) - call(network, x, t))[:, :6].max() > 1e-2


def test_low_precision_keeps_the_time():
    low = filled((4, 4, 2), dtype="mixed_bfloat16", **SMALL)
    high = filled((4, 4, 2), **SMALL)
    x, _ = batch((4, 4, 2))
    t = np.array([0.516, 0.517, 0.518], "float32")
    x[:] = x[:1]
    expected, output = call(high, x, t), call(low, x, t)
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # neighbouring steps differ by more than the rounding
    np.testing.assert_allclose(output, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(input_shape=(5, 4, 1)), r"multiple of its patch. Received: axes \(5, 4\), patch_size=\(2, 2\)"),
        (dict(input_shape=(4,)), r"1, 2 or 3 axes s. Received: \(4,\)"),
        (dict(patch_size=(2, 2, 2)), "`patch_size` must be a positive int or 2 of them"),
        (dict(hidden_dim=16, num_heads=3), "`num_heads` must divide `hidden_dim`. Received: 3 and 16"),
        (dict(positions="learned"), "`positions` must be one of .*'learned'"),
        (dict(feed_forward="relu"), "`feed_forward` must be one of .*'relu'"),
        (dict(num_classes=0), "`num_classes` must be positive, or None. Received: 0"),
        (dict(label_dropout=2.0, num_classes=3), "dropout=2.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{"input_shape": (4, 4, 1), **SMALL, **arguments})


@pytest.mark.parametrize("name", ["M/2", "S", "S/two", "2/S"])
def test_bad_size(name):
    with pytest.raises(ValueError, match=f"such as 'S/2'. Received: '{name}'"):
        DiT.from_size(name, (4, 4, 1))
