"""Self-attention on `ops.dot_product_attention`, with optional qk-norm, rotary positions and a key mask."""

import keras
from keras import ops

from keras_mmai.layers.positions import apply_rotary
from keras_mmai.serialization import register


@register
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention.

    Call: `x` (b, n, d), `mask` (b, n) bool or None: False for a token that nobody may attend to, or (b, n, n): which
    keys each query attends to, such as a causal mask, `np.tri(n)[None] > 0`; `rotary` the pair of tables of
    `rotary_tables` or None. Output (b, n, d).

    Args:
        num_heads: int; must divide d.
        qk_norm: bool, root-mean-square normalisation of queries and keys over each head, with a learned scale
            (Dehghani et al. 2023, section 3), which keeps logits bounded in low precision.
        use_bias: bool.

    Reference: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, num_heads, qk_norm=False, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # rotary tables stay float32; the projections cast what they take
        self.num_heads = num_heads
        self.qk_norm = qk_norm
        self.use_bias = use_bias

    def build(self, x_shape):
        dim = x_shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                f"The width of the tokens must be a multiple of `num_heads`. Received: width {dim}, "
                f"num_heads={self.num_heads}"
            )
        self.head_dim = dim // self.num_heads
        dense = dict(use_bias=self.use_bias, kernel_initializer="glorot_uniform", dtype=self.dtype_policy)
        self.qkv = keras.layers.Dense(3 * dim, name="qkv", **dense)
        self.qkv.build(x_shape)
        self.projection = keras.layers.Dense(dim, name="projection", **dense)
        self.projection.build(x_shape)
        if self.qk_norm:
            norm = dict(epsilon=1e-6, dtype=self.dtype_policy)
            self.query_norm = keras.layers.RMSNormalization(name="query_norm", **norm)
            self.key_norm = keras.layers.RMSNormalization(name="key_norm", **norm)
            for layer in (self.query_norm, self.key_norm):
                layer.build((*x_shape[:-1], self.num_heads, self.head_dim))
        self.built = True

    def call(self, x, mask=None, rotary=None):
        return self.merge(attend(*self.heads(x, rotary), mask))

    def heads(self, x, rotary=None):
        """Queries, keys and values of x (b, n, d): (b, n, h, d / h) each."""
        qkv = ops.reshape(self.qkv(x), (-1, ops.shape(x)[1], 3, self.num_heads, self.head_dim))
        q, k, v = ops.unstack(qkv, 3, axis=2)
        if self.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        return q, k, v

    def merge(self, x):
        """What was attended to (b, n, h, d / h), as (b, n, d)."""
        return self.projection(ops.reshape(x, (-1, ops.shape(x)[1], self.num_heads * self.head_dim)))

    def compute_mask(self, x, mask=None):
        return mask_of_tokens(mask)

    def compute_output_shape(self, x_shape):
        return x_shape


def mask_of_tokens(mask):
    """The mask that later layers and the loss see: which keys a query attends to is none."""
    return mask if mask is not None and len(mask.shape) == 2 else None


def attend(q, k, v, mask=None, along=None):
    """Scaled dot-product attention of (b, n, h, d / h), to the keys that `mask` says, (b, n) or for each query
    (b, n, n), or to all.

    With `along`, ((rows, columns), axis), the n tokens are those of a row-major grid, and each attends only to those of
    its own line along the axis, 0 or 1, at the cost of n times the length of a line; the mask is then None or (b, n).
    """
    if along is not None:
        grid, axis = along
        q, k, v, mask = (None if x is None else _lines(x, grid, axis) for x in (q, k, v, mask))
        x = ops.reshape(attend(q, k, v, mask), (-1, grid[1 - axis], grid[axis], *v.shape[2:]))
        x = ops.swapaxes(x, 1, 2) if axis == 0 else x
        return ops.reshape(x, (-1, grid[0] * grid[1], *v.shape[2:]))
    return ops.dot_product_attention(q, k, v, mask=_mask_of_heads(mask))


def attention_weights(q, k, mask=None):
    """The weights by which `attend` sums the values, the mean over the heads: (b, n, n) float32, rows sum to 1."""
    q, k = ops.cast(q, "float32"), ops.cast(k, "float32")
    logits = ops.einsum("bqhd,bkhd->bhqk", q, k) / float(q.shape[-1]) ** 0.5
    if mask is not None:
        logits = ops.where(_mask_of_heads(mask), logits, -1e30)
    return ops.mean(ops.softmax(logits, axis=-1), axis=1)


def _mask_of_heads(mask):
    if mask is None:
        return None
    mask = ops.cast(mask, "bool")
    return mask[:, None, None, :] if len(mask.shape) == 2 else mask[:, None]


def _lines(x, grid, axis):
    """Tokens (b, n, ...) of a row-major grid of two axes, line by line along one of them: (b * n / m, m, ...)."""
    x = ops.reshape(x, (-1, *grid, *x.shape[2:]))
    x = ops.swapaxes(x, 1, 2) if axis == 0 else x
    return ops.reshape(x, (-1, grid[axis], *x.shape[3:]))
