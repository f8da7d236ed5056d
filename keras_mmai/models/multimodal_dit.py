"""One transformer over the tokens of any modalities, each with its own noise level. A pure network."""

import math

import keras
import numpy as np
from keras import ops

from keras_mmai.layers.conditioning import TimestepEmbedding
from keras_mmai.layers.dit import DiTBlock, DiTOutput, JointDiTBlock
from keras_mmai.layers.patches import PatchEmbed, unpatchify
from keras_mmai.layers.positions import rotary_tables_at, sincos_positions_at
from keras_mmai.layers.tokens import TokenEmbedding
from keras_mmai.serialization import register

STREAMS = ("shared", "separate")
POSITIONS = ("both", "sincos", "rotary")
# along which axis of a video's (frames, places) each block attends, in turn; None: all tokens to all
ATTENTION = {"full": (None,), "factorized": (1, 0)}


@register
class MultimodalDiT(keras.Model):
    """The transformer of `MultimodalDiffusionTransformer`: adaLN-Zero blocks over the tokens of all modalities.

    Each token has its own noise level t and may be absent: then no other attends to it, and what it holds changes
    nothing. Positions are by (time, y, x), time in seconds where a modality has a rate, so that what happens at one
    time lies at one place. A modality that is not in the call is not in the sequence.

    Call, dicts by the names of `spaces`: `tokens`, noisy: latents (b, *shape) float or ids (b, *shape) int32, masked
    with the id `vocabulary`; `t` (b,) float32 in [0, 1], the noise level of a modality, or (b, n), that of each token,
    for each of `tokens` but the conditions (`adaln`); `present` (b,) or (b, n) bool, or left out: all present; `known`
    (b, n) bool, the tokens at noise level 0 whatever t says, or left out: none. One level for all tokens costs less.

    Returns a dict: for latents (b, *shape) float32, for ids logits (b, *shape, vocabulary) float32.

    Args:
        spaces: dict of `TokenSpace` by name, or a list of `Modality`.
        streams: "separate": each modality has weights of its own in every block, and they meet in attention (MM-DiT,
            Esser et al. 2024, arXiv:2403.03206); "shared": one transformer reads all of them, with fewer weights at the
            same width. One modality alone, besides conditions (`adaln`), has one stream.
        attention: "full": all tokens attend to all; "factorized", for one video: within each frame and, in every second
            block, at each place along time, for n * (h * w + frames) / 2 pairs in a block instead of n * n (Latte, Ma
            et al. 2024, arXiv:2401.03048, variant 1).
        positions: "sincos": added to the tokens; "rotary": rotations in attention, which tell distances alone, so that
            what an image shows is learned slowly; "both".
        hidden_dim, num_layers, num_heads, mlp_ratio, qk_norm, feed_forward, time_scale: as those of `DiT`.

    Raises:
        ValueError: at construction on heads that do not divide the width, a width of a head that can't hold the
            positions, only conditions, or factorized attention of anything but one modality on a grid of (time, y, x);
            when called on names that are no modality.
    """

    def __init__(
        self,
        spaces,
        hidden_dim=256,
        num_layers=6,
        num_heads=4,
        mlp_ratio=4.0,
        qk_norm=True,
        feed_forward="gelu",
        time_scale=1000.0,
        streams="separate",
        attention="full",
        positions="both",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False  # times stay float32; layers cast what they take
        if hidden_dim % num_heads:
            raise ValueError(f"`num_heads` must divide `hidden_dim`. Received: {num_heads} and {hidden_dim}")
        if streams not in STREAMS:
            raise ValueError(f"`streams` must be one of {STREAMS}. Received: {streams!r}")
        if positions not in POSITIONS:
            raise ValueError(f"`positions` must be one of {POSITIONS}. Received: {positions!r}")
        if attention not in ATTENTION:
            raise ValueError(f"`attention` must be one of {tuple(ATTENTION)}. Received: {attention!r}")
        self.spaces = dict(spaces) if isinstance(spaces, dict) else {m.name: m.space for m in spaces}
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.qk_norm = qk_norm
        self.feed_forward = feed_forward
        self.time_scale = time_scale
        self.streams = streams
        self.attention = attention
        self.positions = positions
        self.sequence = tuple(name for name, space in self.spaces.items() if not space.adaln)
        if not self.sequence:
            raise ValueError(f"`spaces` has nothing that is generated. Received: {self.spaces}")
        grids = {name: self.spaces[name].grid for name in self.sequence}
        if attention == "factorized" and [len(grid) for grid in grids.values()] != [3]:
            raise ValueError(
                "`attention='factorized'` is for one modality on a grid of (time, y, x), besides conditions (`adaln`). "
                f"Received: grids {grids}"
            )

        dtype = self.dtype_policy
        self.time_embed = TimestepEmbedding(hidden_dim, time_scale=time_scale, name="time_embed", dtype=dtype)
        self.embeds, self.outputs_of = {}, {}
        for name, space in self.spaces.items():
            if space.vocabulary is None:
                embed = PatchEmbed(space.patch_size, hidden_dim, name=f"embed_{name}", dtype=dtype)
            else:
                options = {"stddev": 0.02} if space.adaln else {}  # as a `LabelEmbedding`
                options |= dict(code_axes=space.code_axes, name=f"embed_{name}", dtype=dtype)
                embed = TokenEmbedding(space.vocabulary, hidden_dim, **options)
            self.embeds[name] = embed
            if not space.adaln:
                self.outputs_of[name] = DiTOutput(space.channels, name=f"output_{name}", dtype=dtype)
        block = dict(num_heads=num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, feed_forward=feed_forward, dtype=dtype)
        self._apart = streams == "separate" and len(self.sequence) > 1
        if self._apart:
            block["lengths"] = {name: self.spaces[name].num_tokens for name in self.sequence}
        kind = JointDiTBlock if self._apart else DiTBlock
        self.blocks = [kind(name=f"block_{i}", **block) for i in range(num_layers)]
        self._added, self._rotary = self._position_tables()
        self.build()

    def _position_tables(self):
        """Of each modality: what is added to its tokens (n, hidden_dim), and the cosines and sines (n, head_dim) of its
        rotations, over those of (time, y, x) on which there are tokens."""
        spaces = {name: self.spaces[name] for name in self.sequence}
        unit_rate = max((space.rate for space in spaces.values() if space.rate is not None), default=1.0)
        places = {name: space.coordinates(unit_rate) for name, space in spaces.items()}
        used = np.any(np.concatenate(list(places.values())) != 0, axis=0)
        used[0] |= not used.any()
        head_dim = self.hidden_dim // self.num_heads
        added, rotary = {}, {}
        for name, place in places.items():
            if self.positions != "sincos":
                rotary[name] = rotary_tables_at(place[:, used], head_dim)
            if self.positions != "rotary":
                added[name] = sincos_positions_at(place[:, used], self.hidden_dim).astype("float32")
        return added, rotary

    def build(self, input_shape=None):
        if self.built:
            return
        self.time_embed.build((None, None))
        for name, embed in self.embeds.items():
            embed.build((None, *self.spaces[name].shape))
        self.modality_embedding = self.add_weight(
            shape=(len(self.sequence), self.hidden_dim), initializer="zeros", name="modality_embedding"
        )
        for layer in (*self.blocks, *self.outputs_of.values()):
            layer.build((None, None, self.hidden_dim))
        self.built = True

    def get_build_config(self):
        return None  # the constructor's arguments are enough

    def call(self, tokens, t, present=None, known=None, training=False):
        x, layout = self._trunk(tokens, t, present, known)
        outputs, start, options = {}, 0, layout["options"]
        for name in layout["names"]:
            space, stop = self.spaces[name], start + self.spaces[name].num_tokens
            segments = options["segments"][..., start:stop, :]
            output = self.outputs_of[name](x[:, start:stop], options["condition"], segments=segments)
            outputs[name] = ops.cast(self._shaped(output, space), "float32")
            start = stop
        return outputs

    def features(self, tokens, t, present=None, known=None):
        """The mean of the last block's present tokens: (b, hidden_dim) float32.

        Of separate streams, what the last block makes of a modality is learned only where it is generated.
        """
        x, layout = self._trunk(tokens, t, present, known)
        weight = ops.cast(layout["options"]["mask"], "float32")[..., None]
        return ops.sum(ops.cast(x, "float32") * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)

    def attention_weights(self, tokens, t, present=None, known=None):
        """How much each token attends to each: (b, n, n) float32, the mean over blocks and heads; and the slice of n
        that each modality takes, by name. Of full attention."""
        x, layout = self._start(tokens, t, present, known)
        total, places, start = 0.0, {}, 0
        for block in self.blocks:
            total = total + block.attention_weights(x, **layout["options"])
            x = block(x, **layout["options"])
        for name in layout["names"]:
            places[name] = slice(start, start + self.spaces[name].num_tokens)
            start = places[name].stop
        return total / self.num_layers, places

    def _trunk(self, tokens, t, present, known):
        x, layout = self._start(tokens, t, present, known)
        axes = ATTENTION[self.attention]
        for i, block in enumerate(self.blocks):
            axis = axes[i % len(axes)]
            if axis is None:
                x = block(x, **layout["options"])
            else:
                frames, *places = self.spaces[layout["names"][0]].grid
                x = block(x, **layout["options"], along=((frames, math.prod(places)), axis))
        return x, layout

    def _start(self, tokens, t, present, known):
        present, known = present or {}, known or {}
        unknown = sorted({*tokens, *t, *present, *known} - set(self.spaces))
        if unknown:
            raise ValueError(f"The modalities are {sorted(self.spaces)}. Received: {unknown}")
        names = [name for name in self.sequence if name in tokens]
        if not names:
            raise ValueError(f"There are no tokens of {sorted(self.sequence)}. Received: {sorted(tokens)}")
        batch = ops.shape(tokens[names[0]])[0]

        parts, here = [], []
        for name in names:
            n = self.spaces[name].num_tokens
            is_here = self._by_token(present.get(name, True), batch, n)
            x = self.embeds[name](tokens[name])
            if self.positions != "rotary":
                x = x + ops.cast(self._added[name], x.dtype)
            parts.append(ops.where(is_here[..., None], x, 0.0))
            here.append(is_here)
        x, here = ops.concatenate(parts, axis=1), ops.concatenate(here, axis=1)
        rotary = None
        if self.positions != "sincos":
            rotary = [np.concatenate(tables) for tables in zip(*(self._rotary[name] for name in names))]

        condition, segments = self._segments(names, t, known, batch)
        for name, space in self.spaces.items():
            if space.adaln:
                label = self._label(name, tokens, present, batch)
                condition = condition + self.embeds[name](label)
        options = dict(condition=condition, mask=here, rotary=rotary, segments=segments)
        if self._apart:
            options["names"] = tuple(names)
        return x, {"names": names, "options": options}

    def _segments(self, names, t, known, batch):
        """The condition of every segment, (b, s, hidden_dim), and which one each token is of, one-hot (n, s) or
        (b, n, s): one of each modality, and one more of its known tokens; or one of each token that has its own t."""
        lengths = [self.spaces[name].num_tokens for name in names]
        times, counts, clean = [], [], []
        for name, n in zip(names, lengths):
            level = ops.cast(t[name], "float32")
            own = len(level.shape) > 1
            if name in known and own:
                level = ops.where(self._by_token(known[name], batch, n), 0.0, level)
            elif name in known:
                clean.append(name)
            times.append(level if own else level[:, None])
            counts.append(n if own else 1)
        starts = np.cumsum([0, *counts])
        places = [start + np.arange(n) * (count > 1) for start, n, count in zip(starts, lengths, counts)]
        segments = ops.convert_to_tensor(np.eye(starts[-1], dtype="float32")[np.concatenate(places)])
        rows = list(np.repeat([self.sequence.index(name) for name in names], counts))
        if clean:
            times.append(ops.zeros((batch, len(clean))))
            rows += [self.sequence.index(name) for name in clean]
            flags = [known[name] if name in clean else False for name in names]
            is_known = [self._by_token(flag, batch, n) for flag, n in zip(flags, lengths)]
            is_known = ops.cast(ops.concatenate(is_known, axis=1), "float32")[..., None]
            of_known = ops.take(segments, [int(starts[names.index(name)]) for name in clean], axis=1)
            segments = ops.concatenate([segments * (1.0 - is_known), of_known * is_known], axis=-1)
        return self._condition(ops.concatenate(times, axis=1), rows), segments

    def _condition(self, times, rows):
        """Noise levels (b, s) of segments and which modality each is of: (b, s, hidden_dim)."""
        condition = self.time_embed(times)
        return condition + ops.cast(ops.take(self.modality_embedding, rows, axis=0), condition.dtype)

    def _label(self, name, tokens, present, batch):
        """The ids of a condition (b, ...), the mask where it is absent."""
        space = self.spaces[name]
        if name not in tokens:
            return ops.full((batch, 1), space.vocabulary, dtype="int32")
        ids = ops.reshape(ops.cast(tokens[name], "int32"), (-1, 1))
        is_here = self._by_token(present.get(name, True), batch, 1)
        return ops.where(is_here, ids, space.vocabulary)

    @staticmethod
    def _by_token(flags, batch, n):
        """Flags of rows or tokens, or one bool: (b, n) bool."""
        if isinstance(flags, bool):
            return ops.full((batch, n), flags, dtype="bool")
        flags = ops.cast(flags, "bool")
        if len(flags.shape) == 1:
            flags = flags[:, None]
        return ops.broadcast_to(flags, (batch, n))

    @staticmethod
    def _shaped(output, space):
        """(b, n, channels) to (b, *shape), or to logits (b, *shape, vocabulary)."""
        if space.vocabulary is None:
            return unpatchify(output, space.patch_size, space.grid)
        return ops.reshape(output, (-1, *space.shape, space.vocabulary))

    def compute_output_shape(self, tokens_shape, t_shape=None):
        shapes = {}
        for name in tokens_shape:
            space = self.spaces[name]
            if not space.adaln:
                extra = () if space.vocabulary is None else (space.vocabulary,)
                shapes[name] = (tokens_shape[name][0], *space.shape, *extra)
        return shapes
