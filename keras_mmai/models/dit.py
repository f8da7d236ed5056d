"""DiT: Peebles & Xie, Scalable Diffusion Models with Transformers, 2023, arXiv:2212.09748. A pure network."""

import math

import keras
from keras import ops

from keras_mmai.layers.conditioning import LabelEmbedding, TimestepEmbedding
from keras_mmai.layers.dit import DiTBlock, DiTOutput
from keras_mmai.layers.patches import PatchEmbed, patch_grid, standard_tuple, unpatchify
from keras_mmai.layers.positions import rotary_tables, sincos_positions
from keras_mmai.serialization import register

SIZES = {  # table 1 of the paper; each with patches of 2, 4 or 8
    "S": dict(num_layers=12, hidden_dim=384, num_heads=6),
    "B": dict(num_layers=12, hidden_dim=768, num_heads=12),
    "L": dict(num_layers=24, hidden_dim=1024, num_heads=16),
    "XL": dict(num_layers=28, hidden_dim=1152, num_heads=16),
}
POSITIONS = ("sincos", "rotary")


@register
class DiT(keras.Model):
    """A transformer over patches of a noisy signal, told the time and, if there are classes, the label.

    It knows no diffusion: x (b, *s, c) and t (b,) in, (b, *s, out_channels) out.

    Call: `x` (b, *input_shape) float; `t` (b,) float32 in [0, 1]; `labels` (b,) int32 in 0..num_classes, where
    num_classes is the null class, or None for "null class everywhere"; `mask` (b, n) bool over patches or None.

    Args:
        input_shape: tuple (*s, c), channels last; its length decides 1-D, 2-D or 3-D.
        patch_size: int or tuple, a divisor of each axis of s.
        hidden_dim, num_layers, num_heads: ints.
        mlp_ratio: float, width of the feed-forward layers over hidden_dim.
        num_classes: int, or None for a network without labels.
        label_dropout: float, probability of the null class in training.
        out_channels: int, or None for the input's.
        qk_norm: bool. feed_forward: "gelu" or "swiglu". positions: "sincos" (added) or "rotary" (in attention).
        time_scale: float, see `TimestepEmbedding`.
        seed: int or None.

    Raises:
        ValueError: on an axis that is not a multiple of its patch, or heads that do not divide the width; when called
            with labels but built without classes.
    """

    def __init__(
        self,
        input_shape,
        patch_size=2,
        hidden_dim=384,
        num_layers=12,
        num_heads=6,
        mlp_ratio=4.0,
        num_classes=None,
        label_dropout=0.1,
        out_channels=None,
        qk_norm=False,
        feed_forward="gelu",
        positions="sincos",
        time_scale=1000.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # the time stays float32; layers cast what they take
        if len(input_shape) not in (2, 3, 4):
            raise ValueError(f"`input_shape` is (*s, channels) with 1, 2 or 3 axes s. Received: {input_shape}")
        if hidden_dim % num_heads:
            raise ValueError(f"`num_heads` must divide `hidden_dim`. Received: {num_heads} and {hidden_dim}")
        if positions not in POSITIONS:
            raise ValueError(f"`positions` must be one of {POSITIONS}. Received: {positions!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"`num_classes` must be positive, or None. Received: {num_classes}")
        self.input_shape = tuple(input_shape)
        self.patch_size = standard_tuple(patch_size, len(input_shape) - 1, "patch_size")
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.out_channels = out_channels
        self.qk_norm = qk_norm
        self.feed_forward = feed_forward
        self.positions = positions
        self.time_scale = time_scale
        self.seed = seed
        self.grid = patch_grid(self.input_shape[:-1], self.patch_size)

        dtype = self.dtype_policy
        channels = out_channels or self.input_shape[-1]
        self.patch_embed = PatchEmbed(self.patch_size, hidden_dim, name="patch_embed", dtype=dtype)
        self.time_embed = TimestepEmbedding(hidden_dim, time_scale=time_scale, name="time_embed", dtype=dtype)
        self.label_embed = None
        if num_classes is not None:
            self.label_embed = LabelEmbedding(
                num_classes, hidden_dim, label_dropout, seed, name="label_embed", dtype=dtype
            )
        block = dict(num_heads=num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, feed_forward=feed_forward, dtype=dtype)
        self.blocks = [DiTBlock(name=f"block_{i}", **block) for i in range(num_layers)]
        self.output_layer = DiTOutput(math.prod(self.patch_size) * channels, name="output", dtype=dtype)
        self.build()

    @classmethod
    def from_size(cls, name, input_shape, **kwargs):
        """A network of the paper's table 1: `name` is "S/2" to "XL/8", size and patch.

        The paper's models predict a variance too: give `out_channels=2 * channels` for their parameter counts.
        """
        size, _, patch = name.removeprefix("DiT-").partition("/")
        if size not in SIZES or not patch.isdecimal():
            raise ValueError(f"`name` is a size of {sorted(SIZES)} and a patch, such as 'S/2'. Received: {name!r}")
        return cls(input_shape, patch_size=int(patch), **{**SIZES[size], **kwargs})

    def build(self, input_shape=None):
        if self.built:
            return
        tokens = (None, math.prod(self.grid), self.hidden_dim)
        self.patch_embed.build((None, *self.input_shape))
        self.time_embed.build((None,))
        if self.label_embed is not None:
            self.label_embed.build((None,))
        if self.positions == "sincos":
            self.position_table = self.add_weight(
                shape=tokens[1:],
                trainable=False,
                autocast=False,
                dtype="float32",
                name="position_table",
                initializer=lambda shape, dtype: ops.convert_to_tensor(sincos_positions(self.grid, shape[1]), dtype),
            )
        for layer in (*self.blocks, self.output_layer):
            layer.build(tokens)
        self.built = True

    def get_build_config(self):
        return None  # the constructor's arguments are enough

    def call(self, x, t, labels=None, mask=None, training=False):
        x = self.patch_embed(x)  # (b, n, d)
        rotary = None
        if self.positions == "sincos":
            x = x + ops.cast(self.position_table, x.dtype)
        else:
            rotary = rotary_tables(self.grid, self.hidden_dim // self.num_heads)
        condition = self.time_embed(t)  # (b, d)
        if self.label_embed is None:
            if labels is not None:
                raise ValueError("The network was built with num_classes=None: it takes no `labels`.")
        else:
            if labels is None:
                labels = ops.full_like(ops.cast(t, "int32"), self.num_classes)
            if len(labels.shape) != 1:
                raise ValueError(f"`labels` must be (b,) integers. Received: shape {tuple(labels.shape)}")
            condition = condition + self.label_embed(labels, training=training)
        for block in self.blocks:
            x = block(x, condition, mask=mask, rotary=rotary)
        x = self.output_layer(x, condition)  # (b, n, prod(patch) * c)
        return unpatchify(x, self.patch_size, self.grid)

    def compute_mask(self, x, mask=None):
        return None  # a mask over patches does not fit the signal

    def compute_output_shape(self, x_shape, t_shape=None, labels_shape=None):
        return (*x_shape[:-1], self.out_channels or self.input_shape[-1])
