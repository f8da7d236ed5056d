"""The diffusion transformer's block and output layer, conditioned by adaLN-Zero (Peebles & Xie 2023, section 3.2)."""

import keras
from keras import ops

from keras_mmai.layers.attention import SelfAttention, attend, attention_weights, mask_of_tokens
from keras_mmai.layers.feed_forward import FeedForward, SwiGLU
from keras_mmai.serialization import register

FEED_FORWARDS = {"gelu": FeedForward, "swiglu": SwiGLU}


def modulate(x, shift, scale):
    return x * (1.0 + scale) + shift


@register
class Modulation(keras.layers.Layer):
    """A condition to `num_chunks` vectors, all zero at initialisation: (b, d) or (b, n, d) -> list of (b, 1|n, d).

    With `segments` the conditions (b, s, d) are those of s segments, and each token has that of its own: one-hot floats
    (n, s) or (b, n, s), n tokens. So a matrix product is spent on each segment, not on each token.
    """

    def __init__(self, num_chunks, **kwargs):
        super().__init__(**kwargs)
        self.num_chunks = num_chunks

    def build(self, condition_shape):
        self.dense = keras.layers.Dense(
            self.num_chunks * condition_shape[-1], kernel_initializer="zeros", name="dense", dtype=self.dtype_policy
        )
        self.dense.build(condition_shape)
        self.built = True

    def call(self, condition, segments=None):
        if len(condition.shape) == 2:
            condition = condition[:, None, :]
        chunks = self.dense(ops.silu(condition))
        if segments is not None:
            chunks = ops.matmul(ops.cast(segments, chunks.dtype), chunks)
        return ops.split(chunks, self.num_chunks, axis=-1)

    def compute_output_shape(self, condition_shape, segments_shape=None):
        b, n = condition_shape[0], condition_shape[1] if len(condition_shape) == 3 else 1
        n = n if segments_shape is None else segments_shape[-2]
        return [(b, n, condition_shape[-1])] * self.num_chunks


def layer_norm(name, dtype):
    """LayerNorm without scale and offset: the modulation gives both."""
    return keras.layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, name=name, dtype=dtype)


@register
class DiTBlock(keras.layers.Layer):
    """Transformer block with adaLN-Zero: its output equals its input at initialisation.

        x <- x + gate_1 * attention(modulate(norm(x), shift_1, scale_1))
        x <- x + gate_2 * feed_forward(modulate(norm(x), shift_2, scale_2))

    Call: `x` (b, n, d); `condition` (b, d), or (b, n, d) for a condition of each token's own, or (b, s, d) with
    `segments`, see `Modulation`; `mask` (b, n) or (b, n, n) bool or None, see `SelfAttention`; `rotary` tables or None;
    `along` an axis of a grid, see `attend`, or None: all attend to all. Output (b, n, d).

    Args:
        num_heads: int; must divide d.
        mlp_ratio: float, width of the feed-forward layer over d.
        qk_norm: bool, see `SelfAttention`.
        feed_forward: "gelu" or "swiglu" (at two thirds of the width, for the same cost).
    """

    def __init__(self, num_heads, mlp_ratio=4.0, qk_norm=False, feed_forward="gelu", **kwargs):
        super().__init__(**kwargs)
        if feed_forward not in FEED_FORWARDS:
            raise ValueError(f"`feed_forward` must be one of {sorted(FEED_FORWARDS)}. Received: {feed_forward!r}")
        self.supports_masking = True
        self.autocast = False  # rotary tables stay float32; the layers inside cast what they take
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.qk_norm = qk_norm
        self.feed_forward = feed_forward

    def build(self, x_shape):
        dim, dtype = x_shape[-1], self.dtype_policy
        hidden_dim = int(dim * self.mlp_ratio)
        if self.feed_forward == "swiglu":
            hidden_dim = int(hidden_dim * 2 / 3)
        self.modulation = Modulation(6, name="modulation", dtype=dtype)
        self.modulation.build((None, dim))
        self.norm_1 = layer_norm("norm_1", dtype)
        self.norm_2 = layer_norm("norm_2", dtype)
        self.attention = SelfAttention(self.num_heads, qk_norm=self.qk_norm, name="attention", dtype=dtype)
        self.mlp = FEED_FORWARDS[self.feed_forward](hidden_dim, name="mlp", dtype=dtype)
        for layer in (self.norm_1, self.attention, self.norm_2, self.mlp):
            layer.build(x_shape)
        self.built = True

    def call(self, x, condition, mask=None, rotary=None, segments=None, along=None):
        x, heads, gates = self.before(x, condition, rotary, segments)
        return self.after(x, attend(*heads, mask, along), gates)

    def attention_weights(self, x, condition, mask=None, rotary=None, segments=None):
        """How much each token attends to each, the mean over the heads: (b, n, n) float32."""
        _, (q, k, _), _ = self.before(x, condition, rotary, segments)
        return attention_weights(q, k, mask)

    def before(self, x, condition, rotary=None, segments=None):
        """The tokens, their queries, keys and values, and what `after` needs of the condition."""
        x = ops.cast(x, self.compute_dtype)
        shift, scale, *gates = self.modulation(condition, segments)
        return x, self.attention.heads(modulate(self.norm_1(x), shift, scale), rotary), gates

    def after(self, x, attended, gates):
        """The tokens, with what they attended to (b, n, h, d / h)."""
        gate_1, shift, scale, gate_2 = gates
        x = x + gate_1 * self.attention.merge(attended)
        return x + gate_2 * self.mlp(modulate(self.norm_2(x), shift, scale))

    def compute_mask(self, x, mask=None):
        return mask_of_tokens(mask)

    def compute_output_shape(self, x_shape, condition_shape=None):
        return x_shape


@register
class JointDiTBlock(keras.layers.Layer):
    """A `DiTBlock` of its own for each of several streams of tokens, which all attend to each other (MM-DiT; Esser et
    al. 2024, arXiv:2403.03206, section 4).

    Call: as `DiTBlock`, and `names` of the streams that x holds, in their order; None: all.

    Args:
        lengths: dict of ints, the number of tokens of each stream by its name.
        num_heads, mlp_ratio, qk_norm, feed_forward: of every `DiTBlock`.
    """

    def __init__(self, lengths, num_heads, mlp_ratio=4.0, qk_norm=False, feed_forward="gelu", **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # as that of its blocks
        self.lengths = dict(lengths)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.qk_norm = qk_norm
        self.feed_forward = feed_forward
        options = dict(num_heads=num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, feed_forward=feed_forward)
        # named by their place: an optimizer that chooses weights by name, as Muon does, sees no name of a user's
        names = {name: f"stream_{place}" for place, name in enumerate(self.lengths)}
        self.blocks = {key: DiTBlock(name=name, dtype=self.dtype_policy, **options) for key, name in names.items()}

    def build(self, x_shape):
        for block in self.blocks.values():
            block.build(x_shape)
        self.built = True

    def call(self, x, condition, mask=None, rotary=None, segments=None, names=None):
        streams, heads = self._before(x, condition, rotary, segments, names)
        attended, outputs = attend(*heads, mask), []
        for block, part, own, gates in streams:
            outputs.append(block.after(own, attended[:, part], gates))
        return ops.concatenate(outputs, axis=1)

    def attention_weights(self, x, condition, mask=None, rotary=None, segments=None, names=None):
        """As that of `DiTBlock`."""
        _, (q, k, _) = self._before(x, condition, rotary, segments, names)
        return attention_weights(q, k, mask)

    def _before(self, x, condition, rotary, segments, names):
        """(block, its place, its tokens, gates) of each stream; queries, keys and values of all."""
        streams, heads, start = [], [], 0
        for name in self.lengths if names is None else names:
            part = slice(start, start + self.lengths[name])
            turn = None if rotary is None else [table[part] for table in rotary]
            own = None if segments is None else segments[..., part, :]
            tokens, qkv, gates = self.blocks[name].before(x[:, part], condition, turn, own)
            streams.append((self.blocks[name], part, tokens, gates))
            heads.append(qkv)
            start = part.stop
        return streams, [ops.concatenate(each, axis=1) for each in zip(*heads)]

    def compute_mask(self, x, mask=None):
        return mask_of_tokens(mask)

    def compute_output_shape(self, x_shape, condition_shape=None):
        return x_shape


@register
class DiTOutput(keras.layers.Layer):
    """Modulated norm, then a linear layer that starts at zero: (b, n, d), (b, d) -> (b, n, output_dim).

    Conditions and `segments`: as those of `DiTBlock`.
    """

    def __init__(self, output_dim, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.output_dim = output_dim

    def build(self, x_shape):
        self.modulation = Modulation(2, name="modulation", dtype=self.dtype_policy)
        self.modulation.build((None, x_shape[-1]))
        self.norm = layer_norm("norm", self.dtype_policy)
        self.norm.build(x_shape)
        self.dense = keras.layers.Dense(
            self.output_dim, kernel_initializer="zeros", name="dense", dtype=self.dtype_policy
        )
        self.dense.build(x_shape)
        self.built = True

    def call(self, x, condition, segments=None):
        shift, scale = self.modulation(condition, segments)
        return self.dense(modulate(self.norm(x), shift, scale))

    def compute_output_shape(self, x_shape, condition_shape=None):
        return (*x_shape[:-1], self.output_dim)
