"""Quantizers made of quantizers: of the rest that the one before leaves, and of groups of channels."""

import keras
import numpy as np
from keras import ops

from keras_mmai import noise
from keras_mmai.layers.quantizers.quantizer import Quantizer, length, straight_through
from keras_mmai.layers.quantizers.vector import CodebookQuantizer
from keras_mmai.serialization import register

NOT_USED = -1


class ComposedQuantizer(Quantizer):
    """Base: one code of each of `quantizers`, joined along one more axis of the codes."""

    def __init__(self, quantizers, embedding_dim, code_dim, **kwargs):
        super().__init__(embedding_dim, code_dim, **kwargs)
        if len({id(quantizer) for quantizer in quantizers}) < len(quantizers):
            raise ValueError(
                "`quantizers` must be different objects, each with a codebook of its own: "
                "[VectorQuantizer(...) for _ in range(n)]."
            )
        self.quantizers = quantizers
        self.vocabulary = max(quantizer.vocabulary for quantizer in quantizers)
        self.code_shape = (len(quantizers), *quantizers[0].code_shape)
        self.lowest_code = min(quantizer.lowest_code for quantizer in quantizers)
        self.loss_names = tuple(dict.fromkeys(name for quantizer in quantizers for name in quantizer.loss_names))

    def build_codes(self):
        for quantizer in self.quantizers:
            if not quantizer.built:  # one that was loaded, or used before, is
                quantizer.build((None, quantizer.embedding_dim))

    @property
    def bits(self):
        return sum(quantizer.bits for quantizer in self.quantizers)

    @property
    def vocabularies(self):
        return tuple(size for quantizer in self.quantizers for size in quantizer.vocabularies)

    @property
    def use(self):
        uses = [quantizer.use for quantizer in self.quantizers]
        most = max(use.shape[-1] for use in uses)
        return ops.stack([ops.pad(u, [(0, 0)] * (len(u.shape) - 1) + [(0, most - u.shape[-1])]) for u in uses])

    def mean_losses(self, losses):
        """Means by name over all the quantizers."""
        return {name: sum(each[name] for each in losses if name in each) / len(losses) for name in self.loss_names}


@register
class ResidualQuantizer(ComposedQuantizer):
    """Each quantizer codes what those before have left: z ~ e_1 + ... + e_q (Zeghidour et al. 2021, algorithm 1).

    Call, outputs and masks: see `Quantizer`; codes (b, ..., num_levels). Losses: means over the levels. The gradient
    passes straight through the sum, once: it reaches z with gain 1 for any number of levels, and each level's
    commitment pulls on z.

    The first codes alone are a coarser description: `lookup` takes any number of levels. In training some samples see
    only a random number of levels, so that every such prefix is learned. A level that starts from data waits until the
    one before it has started, or its first residuals would be nearly zero. The code of a level that a training sample
    does not use is -1.

    Args:
        quantizers: list of `VectorQuantizer` or `SimVQ` of one embedding_dim, which do not project by themselves.
        dropout: float in [0, 1], the fraction of the samples in a training batch, rounded up, that see a random number
            of levels, from 1 to all.
        embedding_dim: int, width of the latents; None is that of the quantizers. Another width is projected, once.
        seed: int or None.

    Raises:
        ValueError: on quantizers of another kind or of different width, or latents of another width.
    """

    def __init__(self, quantizers, dropout=0.0, embedding_dim=None, seed=None, **kwargs):
        quantizers = list(quantizers)
        if not quantizers or not all(isinstance(q, CodebookQuantizer) for q in quantizers):
            raise ValueError(f"`quantizers` are one or more `VectorQuantizer` or `SimVQ`. Received: {quantizers}")
        widths = {width for q in quantizers for width in (q.embedding_dim, q.code_dim)}
        if len(widths) > 1:
            raise ValueError(
                "`quantizers` must have one width, and no `code_dim` of their own: `embedding_dim` of the "
                f"ResidualQuantizer projects. Received: embedding_dim={[q.embedding_dim for q in quantizers]}, "
                f"code_dim={[q.code_dim for q in quantizers]}"
            )
        if any(q.distance == "cosine" for q in quantizers):
            raise ValueError('`quantizers` must have distance="euclidean": what a code leaves has a length too.')
        if any(getattr(q, "gradient", None) == "rotation" for q in quantizers):
            raise ValueError('`quantizers` must have gradient="straight_through": the gradient passes their sum once.')
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"`dropout` must lie in [0, 1]. Received: dropout={dropout}")
        width = quantizers[0].code_dim
        super().__init__(quantizers, embedding_dim or width, width, **kwargs)
        self.lowest_code = NOT_USED
        self.dropout = dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def encode_rows(self, rows, valid, leading_shape, training):
        total, codes, losses = ops.zeros_like(rows), [], []
        num_levels = self._draw_levels(leading_shape) if training and self.dropout else None
        ready = ops.ones((), dtype="bool")
        for level, quantizer in enumerate(self.quantizers):
            used = valid
            if training:
                used = ops.logical_and(used, ready)
                ready = ops.logical_and(ready, quantizer.started)  # as it was before this step
            if num_levels is not None:
                used = ops.logical_and(used, level < num_levels)
            learns = training and quantizer.trainable
            quantized, chosen, loss = quantizer.encode_rows(rows - total, used, leading_shape, learns)
            total = total + ops.stop_gradient(ops.where(used[:, None], quantized, 0.0))
            codes.append(ops.where(used, chosen, NOT_USED))
            losses.append(loss)
        return straight_through(rows, total), ops.stack(codes, axis=-1), self.mean_losses(losses)

    def sample_rows(self, rows, seed, temperature):
        codes = []
        for level, quantizer in enumerate(self.quantizers):
            codes.append(quantizer.sample_rows(rows, noise.split(seed, level + 1)[:, level], temperature))
            rows = rows - quantizer.lookup_rows(codes[-1])
        return ops.stack(codes, axis=-1)

    def _draw_levels(self, leading_shape):
        """For each row the number of levels that its sample may use: int32 (n,)."""
        batch, most = leading_shape[0], len(self.quantizers)
        order = ops.argsort(keras.random.uniform((batch,), seed=self.seed_generator))
        dropped = ops.cast(order, "float32") < ops.ceil(self.dropout * ops.cast(batch, "float32"))
        drawn = keras.random.randint((batch,), 1, most + 1, seed=self.seed_generator)
        levels = ops.where(dropped, drawn, most)
        levels = ops.reshape(levels, (-1, *[1] * (len(leading_shape) - 1)))
        return ops.reshape(ops.broadcast_to(levels, leading_shape), (-1,))

    def distance_rows(self, rows, codes):
        """What each level leaves."""
        distances = []
        for level in range(len(self.quantizers)):
            rows = rows - self._vectors(level, codes[:, level])
            distances.append(length(rows))
        return ops.stack(distances, axis=-1)

    def lookup(self, codes):
        """Codes (b, ..., levels) int to vectors (b, ..., embedding_dim) float32; `levels` may be the first few.

        A code below 0 adds nothing; what is too large is clipped.
        """
        codes = ops.cast(codes, "int32")
        shape = ops.shape(codes)[:-1]
        rows = ops.reshape(codes, (-1, codes.shape[-1]))
        return ops.reshape(self._out(self.lookup_rows(rows)), (*shape, self.embedding_dim))

    def lookup_rows(self, codes):
        return sum(self._vectors(level, codes[:, level]) for level in range(codes.shape[-1]))

    def _vectors(self, level, codes):
        """What a level adds: codes (n,) to (n, code_dim)."""
        quantizer = self.quantizers[level]
        vectors = quantizer.lookup_rows(ops.clip(codes, 0, quantizer.vocabulary - 1))
        return ops.where((codes < 0)[:, None], 0.0, vectors)


@register
class GroupedQuantizer(ComposedQuantizer):
    """Each quantizer codes a part of the channels, in order: product quantization (Jegou, Douze & Schmid 2011).

    Call, outputs and masks: see `Quantizer`; codes (b, ..., number of groups, ...). Losses: means over the groups, of
    which one without a loss counts as 0.

    Args:
        quantizers: list of quantizers of any kind, with codes of one shape; the latents' width is the sum of theirs.

    Raises:
        ValueError: on quantizers whose codes differ in shape, or latents of another width.
    """

    def __init__(self, quantizers, **kwargs):
        quantizers = list(quantizers)
        if not quantizers or not all(isinstance(q, Quantizer) for q in quantizers):
            raise ValueError(f"`quantizers` are one or more quantizers. Received: {quantizers}")
        if len({q.code_shape for q in quantizers}) > 1:
            raise ValueError(
                f"`quantizers` must have codes of one shape. Received: {[q.code_shape for q in quantizers]}"
            )
        width = sum(q.embedding_dim for q in quantizers)
        super().__init__(quantizers, width, width, **kwargs)

    def encode_rows(self, rows, valid, leading_shape, training):
        parts = [
            quantizer.encode_projected(part, valid, leading_shape, training and quantizer.trainable)
            for quantizer, part in zip(self.quantizers, self._split(rows))
        ]
        quantized, codes, losses = zip(*parts)
        return ops.concatenate(quantized, axis=-1), ops.stack(codes, axis=1), self.mean_losses(losses)

    def sample_rows(self, rows, seed, temperature):
        codes = [
            quantizer.sample(part, noise.split(seed, group + 1)[:, group], temperature)
            for group, (quantizer, part) in enumerate(zip(self.quantizers, self._split(rows)))
        ]
        return ops.stack(codes, axis=1)

    def _split(self, rows):
        widths = [quantizer.embedding_dim for quantizer in self.quantizers]
        return ops.split(rows, np.cumsum(widths)[:-1].tolist(), axis=-1)

    def distance_rows(self, rows, codes):
        parts = zip(self.quantizers, self._split(rows))
        return ops.stack([q.distances(part, codes[:, group]) for group, (q, part) in enumerate(parts)], axis=1)

    def lookup_rows(self, codes):
        return ops.concatenate([q.lookup(codes[:, group]) for group, q in enumerate(self.quantizers)], axis=-1)
