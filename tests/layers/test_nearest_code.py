import keras
import numpy as np
import pytest
from codebook import nearest, normal, numbers
from keras import ops

from keras_mmai import layers
from keras_mmai.layers import quantizers


def test_no_wrong_index_far_from_zero():
    codes, z = 300 + normal(1024, 64, seed=1), 300 + normal(4096, 64, seed=2)
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert "int32" in str(found.dtype)
    np.testing.assert_array_equal(found, nearest(z, codes))


@pytest.mark.parametrize("n", [1, 7, 8, 50])
def test_chunked_search_equals_the_direct_one(n, monkeypatch):
    z, codes = normal(n, 4), normal(16, 4, seed=1)
    monkeypatch.setattr(quantizers, "SCORE_BYTES", 8 * 16 * 4)  # eight rows at once
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    np.testing.assert_array_equal(found, nearest(z, codes))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends know every length")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_search_over_an_unknown_number_of_rows(jit_compile, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(quantizers, "SCORE_BYTES", 8 * 16 * 4)
    codes = normal(16, 4, seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))], jit_compile=jit_compile)
    def search(z):
        return layers.nearest_code(z, ops.convert_to_tensor(codes))

    for n in (1, 5, 8, 9, 50):
        z = normal(n, 4, seed=n)
        np.testing.assert_array_equal(search(z), nearest(z, codes))


def test_search_is_chunked_in_memory():
    """The scores of 2 ** 13 codes and 2 ** 13 rows are 256 MiB: more than one chunk."""
    z, codes = normal(2**13, 2), normal(2**13, 2, seed=1)
    rows = []
    matmul = ops.matmul

    def counted(a, b):
        rows.append(a.shape[0])
        return matmul(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizers.ops, "matmul", counted)
        found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert max(rows) * 2**13 * 4 <= quantizers.SCORE_BYTES
    np.testing.assert_array_equal(numbers(found)[::97], nearest(z[::97], codes))


def test_perplexity():
    assert float(quantizers.perplexity(ops.convert_to_tensor([2.0, 2.0, 0.0, 2.0]))) == pytest.approx(3, rel=1e-5)
    assert float(quantizers.perplexity(ops.zeros(4))) == 0
