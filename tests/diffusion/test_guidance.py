import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import diffusion

X = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
LABELS = {"label": np.array([1, 2, 3], "int32"), "scale": np.array([0.5, 1.0, 2.0], "float32")}
NULLS = {"label": np.zeros(3, "int32"), "scale": np.ones(3, "float32")}


def network(x, t, conditions):
    """Nonlinear in x, t and every condition, row by row."""
    x = ops.convert_to_tensor(x)
    amount = ops.cast(conditions["label"], "float32") * ops.convert_to_tensor(conditions["scale"])
    return ops.tanh(x * (1 + ops.reshape(amount, (-1, 1, 1)))) + ops.reshape(ops.convert_to_tensor(t), (-1, 1, 1))


class Counted:
    """`network`, keeping the number of rows of every evaluation that really ran."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, t, conditions):
        if keras.backend.backend() == "jax":
            import jax

            # `lax.cond` traces both branches and runs one: count at run time.
            jax.debug.callback(lambda _, rows=x.shape[0]: self.rows.append(rows), x)
        else:
            self.rows.append(x.shape[0])
        return network(x, t, conditions)

    def count(self):
        if keras.backend.backend() == "jax":
            import jax

            jax.effects_barrier()
        rows, self.rows = self.rows, []
        return rows


def expected(scale, t=0.5):
    cond, null = (ops.convert_to_numpy(network(X, t, c)) for c in (LABELS, NULLS))
    return null + scale * (cond - null)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.8)])
def test_guided_output(scale, interval, compiled):
    guidance = diffusion.ClassifierFreeGuidance(scale, interval)
    call = compiled(lambda x, t: guidance(network, x, t, LABELS, NULLS))
    for t, used in ((0.5, scale), (0.2, scale), (0.9, scale if interval == (0.0, 1.0) else 1.0)):
        output = call(ops.convert_to_tensor(X), ops.convert_to_tensor(t, "float32"))
        np.testing.assert_allclose(ops.convert_to_numpy(output), expected(used, t), atol=1e-5)


@pytest.mark.parametrize(
    "scale, interval, t, rows",
    [
        (1.0, (0.0, 1.0), 0.5, [3]),
        (2.0, (0.0, 1.0), 0.5, [6]),
        (2.0, (0.2, 0.8), 0.5, [6]),
        (2.0, (0.2, 0.8), 0.1, [3]),
        (2.0, (0.2, 0.8), 0.9, [3]),
    ],
)
def test_rows_computed(scale, interval, t, rows):
    counted = Counted()
    diffusion.ClassifierFreeGuidance(scale, interval)(counted, X, t, LABELS, NULLS)
    assert counted.count() == rows


def test_the_interval_skips_inside_a_compiled_sampler(compiled):
    counted = Counted()
    guidance = diffusion.ClassifierFreeGuidance(2.0, (0.3, 0.8))
    predict = diffusion.GaussianDiffusion().denoiser(lambda x, t: guidance(counted, x, t, LABELS, NULLS))
    times = diffusion.uniform_times(10)
    states = ops.convert_to_numpy(diffusion.Euler().trajectory(predict, X, times))
    assert counted.count() == [3, 3, 6, 6, 6, 6, 6, 6, 3, 3]
    run = compiled(lambda x: diffusion.Euler()(predict, x, times))
    np.testing.assert_allclose(ops.convert_to_numpy(run(ops.convert_to_tensor(X))), states[-1], atol=1e-5)


def test_rows_at_different_times_are_guided_each_by_its_own():
    guidance = diffusion.ClassifierFreeGuidance(3.0, (0.2, 0.8))
    t = np.array([0.1, 0.5, 0.9], "float32")
    output = ops.convert_to_numpy(guidance(network, X, t, LABELS, NULLS))
    for row, used in enumerate((1.0, 3.0, 1.0)):
        np.testing.assert_allclose(output[row], expected(used, t)[row], atol=1e-5)


def test_without_conditions_there_is_one_plain_pass():
    rows = []
    guidance = diffusion.ClassifierFreeGuidance(3.0)
    output = guidance(lambda x, t, conditions: rows.append(x.shape[0]) or x * 2.0, X, 0.5, {}, {})
    assert rows == [3]
    np.testing.assert_array_equal(ops.convert_to_numpy(output), X * 2)


def test_config_round_trip():
    guidance = diffusion.ClassifierFreeGuidance(2.5, [0.1, 0.9])
    assert guidance.interval == (0.1, 0.9)
    assert diffusion.ClassifierFreeGuidance.from_config(guidance.get_config()) == guidance


def test_errors_teach():
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        diffusion.ClassifierFreeGuidance(2.0, (0.8, 0.2))
    with pytest.raises(ValueError, match=r"same keys. Received: \['label', 'scale'\] and \['label'\]"):
        diffusion.ClassifierFreeGuidance(2.0)(network, X, 0.5, LABELS, {"label": NULLS["label"]})
