"""Signals larger than the memory allows at once."""

import itertools

import numpy as np
from keras import ops

from keras_mmai.tokenizers.convolutional import ConvTokenizer
from keras_mmai.tokenizers.tokenizer import batch_of


class Tiles:
    """A convolutional tokenizer at work on signals of any size, tile by tile.

    Each tile is computed with as much around it as the convolutions reach, so that tokens and signals are those of the
    whole. Results are numpy arrays, of which one tile is computed at a time.

        Tiles(tokenizer, (256, 256)).encode(large_images)

    Args:
        tokenizer: a `VQVAE` or `VAE` that is not causal; its own `input_shape` does not limit the signals.
        tile_shape: ints, the lengths of a tile along the axes of the signal: multiples of the tokenizer's strides.
        tokens: kind of tokens, one of `tokenizer.tokens`; None is the first.

    Raises:
        ValueError: on a causal tokenizer (see `Stream`), a tile that its strides do not divide, or such a signal,
            numpy values out of [-1, 1] or codes out of range.
    """

    def __init__(self, tokenizer, tile_shape, tokens=None):
        if not isinstance(tokenizer, ConvTokenizer):
            raise ValueError(f"Tiles takes a `VQVAE` or `VAE`. Received: {type(tokenizer).__name__}")
        if tokenizer.causal:
            raise ValueError("A causal tokenizer takes long signals in chunks, by `Stream`.")
        self.tokenizer = tokenizer
        self.kind = tokenizer.kind_of_tokens(tokens)
        self.strides = tokenizer.encoder.factors(len(tokenizer.input_shape) - 1)
        self.tile_shape = tuple(tile_shape)
        self._check(self.tile_shape, "`tile_shape`")

    def _check(self, shape, name):
        if len(shape) != len(self.strides) or any(n < 1 or n % s for n, s in zip(shape, self.strides)):
            raise ValueError(f"{name} must be multiples of the strides {self.strides}. Received: {shape}")

    def encode(self, x):
        """Signals (b, *s, c) in [-1, 1] of any size to tokens, numpy (b, *(s / strides), ...)."""
        x, channels = batch_of(x), self.tokenizer.input_shape[-1]
        if len(x.shape) != len(self.strides) + 2 or x.shape[-1] != channels:
            raise ValueError(
                f"Signals have shape {('b', *['any'] * len(self.strides), channels)}. Received: {tuple(x.shape)}"
            )
        self._check(tuple(x.shape[1:-1]), "The axes of a signal")
        if isinstance(x, np.ndarray):
            self.tokenizer.check_values(x)
        grid = [n // s for n, s in zip(x.shape[1:-1], self.strides)]
        margin = -(-self.tokenizer.encoder.margin // min(self.strides))

        def tokens_of(part):
            start, stop = [p[0] * s for p, s in zip(part, self.strides)], [p[1] * s for p, s in zip(part, self.strides)]
            tile = ops.convert_to_tensor(x[(slice(None), *map(slice, start, stop))], dtype="float32")
            return self.tokenizer.to_tokens(self.tokenizer.encoded(tile), self.kind)

        return self._assemble(grid, margin, [1] * len(grid), tokens_of)

    def decode(self, tokens):
        """Tokens (b, *grid, ...) of a grid of any size to signals, numpy float32 (b, *(grid * strides), c)."""
        tokens, axes = batch_of(tokens), len(self.strides)
        expected = self.tokenizer.shape_of(self.kind)[axes:]
        if len(tokens.shape) < 1 + axes or tuple(tokens.shape[1 + axes :]) != expected:
            raise ValueError(f"Tokens have shape {('b', *['any'] * axes, *expected)}. Received: {tuple(tokens.shape)}")
        if self.kind == "codes" and isinstance(tokens, np.ndarray):
            self.tokenizer.check_codes(tokens)
        grid = tokens.shape[1 : 1 + axes]

        def signal_of(part):
            tile = ops.convert_to_tensor(tokens[(slice(None), *[slice(*p) for p in part])])
            return ops.clip(self.tokenizer.decoded(self.tokenizer.from_tokens(tile, self.kind)), -1.0, 1.0)

        return self._assemble(grid, self.tokenizer.decoder.margin, self.strides, signal_of)

    def _assemble(self, grid, margin, scale, compute):
        """Fills an array of grid * scale by parts of the grid, each computed with `margin` tokens around it."""
        whole = None
        steps = [n // s for n, s in zip(self.tile_shape, self.strides)]
        for corner in itertools.product(*[range(0, n, step) for n, step in zip(grid, steps)]):
            inner = [(c, min(c + step, n)) for c, step, n in zip(corner, steps, grid)]
            outer = [(max(0, a - margin), min(n, b + margin)) for (a, b), n in zip(inner, grid)]
            result = ops.convert_to_numpy(compute(outer))
            if whole is None:
                rest = result.shape[1 + len(grid) :]
                whole = np.empty((len(result), *[n * s for n, s in zip(grid, scale)], *rest), result.dtype)
            source = [slice((a - o) * s, (b - o) * s) for (a, b), (o, _), s in zip(inner, outer, scale)]
            target = [slice(a * s, b * s) for (a, b), s in zip(inner, scale)]
            whole[(slice(None), *target)] = result[(slice(None), *source)]
        return whole
