import keras
import numpy as np
import pytest
from codebook import nearest, normal, numbers
from keras import ops

from keras_mmai import layers
from keras_mmai.layers.quantizers import search


def test_no_wrong_index_far_from_zero():
    codes, z = 300 + normal(1024, 64, seed=1), 300 + normal(4096, 64, seed=2)
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert "int32" in str(found.dtype)
    np.testing.assert_array_equal(found, nearest(z, codes))


def test_a_row_far_from_zero_has_the_same_code_alone_and_among_others():
    codes, z = ops.convert_to_tensor(300 + normal(1024, 64, seed=1)), 300 + normal(4096, 64, seed=2)
    together = numbers(layers.nearest_code(ops.convert_to_tensor(z), codes))
    for i in (0, 1, 2000, 4095):
        assert int(layers.nearest_code(ops.convert_to_tensor(z[i : i + 1]), codes)[0]) == together[i]


@pytest.mark.parametrize("first, second", [(3, 4), (3, 200), (130, 200), (127, 128)])
def test_of_equal_codes_the_first(first, second):
    """In one block of 128 codes, and across blocks."""
    codes = normal(256, 4)
    codes[second] = codes[first]
    z = codes + 1e-3 * normal(256, 4, seed=1)
    found = numbers(layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes)))
    expected = np.arange(256)
    expected[second] = first
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [1, 7, 8, 50])
def test_chunked_search_equals_the_direct_one(n, monkeypatch):
    z, codes = normal(n, 4), normal(16, 4, seed=1)
    monkeypatch.setattr(search, "SCORE_BYTES", 8 * 16 * 4)  # eight rows at once
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    np.testing.assert_array_equal(found, nearest(z, codes))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends know every length")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_search_over_an_unknown_number_of_rows(jit_compile, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(search, "SCORE_BYTES", 8 * 16 * 4)
    codes = normal(16, 4, seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))], jit_compile=jit_compile)
    def find(z):
        return layers.nearest_code(z, ops.convert_to_tensor(codes))

    for n in (1, 5, 8, 9, 50):
        z = normal(n, 4, seed=n)
        np.testing.assert_array_equal(find(z), nearest(z, codes))


@pytest.mark.parametrize("n, k", [(2**13, 2**13), (300, search.CODES_AT_ONCE + 1)])
def test_search_is_chunked_in_memory(n, k):
    """The scores of 2 ** 13 codes and 2 ** 13 rows are 256 MiB; and beyond 2 ** 14 codes there are chunks of codes."""
    z, codes = normal(n, 2), normal(k, 2, seed=1)
    scores = []
    matmul = ops.matmul

    def counted(a, b):
        scores.append(4 * a.shape[0] * b.shape[1])
        return matmul(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.ops, "matmul", counted)
        found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    assert 0 < max(scores) <= search.SCORE_BYTES
    np.testing.assert_array_equal(numbers(found)[::97], nearest(z[::97], codes))


@pytest.mark.parametrize("k", [17, 32, 50])
def test_many_codes_are_searched_in_chunks_too(k, monkeypatch):
    monkeypatch.setattr(search, "CODES_AT_ONCE", 16)
    monkeypatch.setattr(search, "BLOCK", 4)
    monkeypatch.setattr(search, "SCORE_BYTES", 8 * 16 * 4)
    z, codes = 30 + normal(50, 4), 30 + normal(k, 4, seed=1)
    codes[-1] = codes[3]  # of equals the first
    z[0] = codes[3]
    found = layers.nearest_code(ops.convert_to_tensor(z), ops.convert_to_tensor(codes))
    np.testing.assert_array_equal(found, nearest(z, codes))
    assert int(found[0]) == 3


def test_draws_are_chunked(monkeypatch):
    z, codes, seed = 300 + normal(50, 4), 300 + normal(16, 4, seed=1), np.arange(100, dtype="int32").reshape(50, 2)
    arguments = [ops.convert_to_tensor(x) for x in (z, codes, seed)]
    whole = numbers(search.draw_code(*arguments, 1.0))
    monkeypatch.setattr(search, "SCORE_BYTES", 8 * 16 * 4)  # eight rows at once
    np.testing.assert_array_equal(search.draw_code(*arguments, 1.0), whole)
    assert (whole != nearest(z, codes)).any()


def test_perplexity():
    assert float(layers.perplexity(ops.convert_to_tensor([2.0, 2.0, 0.0, 2.0]))) == pytest.approx(3, rel=1e-5)
    assert float(layers.perplexity(ops.zeros(4))) == 0
    both = layers.perplexity(ops.convert_to_tensor([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]]))
    np.testing.assert_allclose(numbers(both), [2, 1], rtol=1e-5)
