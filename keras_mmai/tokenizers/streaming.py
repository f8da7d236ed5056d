"""Encoding and decoding as a signal arrives."""

import numpy as np
from keras import ops

from keras_mmai.tokenizers.tokenizer import batch_of


class Stream:
    """A causal tokenizer at work on one batch of signals that arrive in chunks.

    The tokens of the chunks are those of the whole signal, and so is what is decoded from them: each chunk is computed
    with as much of the past as the convolutions reach. A chunk has any multiple of the tokenizer's stride in time
    (samples, or frames); the first one has one frame more where the tokenizer takes the first frame by itself.

        stream = Stream(tokenizer)
        for chunk in microphone:
            send(stream.encode(chunk))

    Args:
        tokenizer: a `VQVAE` or `VAE` with `causal=True`.
        tokens: kind of tokens, one of `tokenizer.tokens`; None is the first.

    Raises:
        ValueError: on a tokenizer that is not causal, or has no such tokens, or a chunk that does not fill its tokens,
            numpy values out of [-1, 1] or codes out of range, another number of signals than before.
    """

    def __init__(self, tokenizer, tokens=None):
        if not getattr(tokenizer, "causal", False):
            raise ValueError(
                f"Only a causal tokenizer can work on a part of a signal before the rest is there: build it with "
                f"`causal=True`. Received: {tokenizer.name}"
            )
        self.tokenizer = tokenizer
        self.kind = tokenizer.kind_of_tokens(tokens)
        self.stride = tokenizer.encoder.factors(len(tokenizer.input_shape) - 1)[0]
        self.signal = self.tokens = None  # the past on which the next chunk depends

    def encode(self, chunk):
        """The next part of the signals, (b, n, ..., c) in [-1, 1], to its tokens."""
        chunk = batch_of(chunk)
        if isinstance(chunk, np.ndarray):
            self.tokenizer.check_values(chunk)
        chunk = ops.convert_to_tensor(chunk, dtype="float32")
        first = self.signal is None
        lead = self.tokenizer.lead if first else 0
        expected = self.tokenizer.input_shape[1:]
        if tuple(chunk.shape[2:]) != expected or (chunk.shape[1] + lead) % self.stride or not chunk.shape[1]:
            raise ValueError(
                f"A chunk has shape {('b', 'n', *expected)}, with n a multiple of {self.stride}"
                f"{' and one more, since it is the first' if lead else ''}. Received: {tuple(chunk.shape)}"
            )
        if lead:
            chunk = ops.concatenate([ops.repeat(chunk[:, :1], lead, axis=1), chunk], axis=1)
        whole = chunk if first else joined(self.signal, chunk)
        tokens = self.tokenizer.to_tokens(self.tokenizer.encoded(whole, lead=False), self.kind)
        past = -(-self.tokenizer.encoder.reach // self.stride) * self.stride
        self.signal = whole[:, max(0, whole.shape[1] - past) :]
        return tokens[:, (whole.shape[1] - chunk.shape[1]) // self.stride :]

    def decode(self, tokens):
        """The next tokens to their part of the signals, float32 in [-1, 1]."""
        tokens = batch_of(tokens)
        expected = self.tokenizer.shape_of(self.kind)[1:]
        if tuple(tokens.shape[2:]) != expected or not tokens.shape[1]:
            raise ValueError(f"Tokens have shape {('b', 'n', *expected)}. Received: {tuple(tokens.shape)}")
        if self.kind == "codes" and isinstance(tokens, np.ndarray):
            self.tokenizer.check_codes(tokens)
        tokens = ops.convert_to_tensor(tokens)
        first = self.tokens is None
        whole = tokens if first else joined(self.tokens, tokens)
        decoded = self.tokenizer.decoded(self.tokenizer.from_tokens(whole, self.kind), lead=first)
        self.tokens = whole[:, max(0, whole.shape[1] - self.tokenizer.decoder.reach) :]
        skipped = (whole.shape[1] - tokens.shape[1]) * self.stride
        return ops.clip(decoded[:, skipped:], -1.0, 1.0)


def joined(past, chunk):
    if past.shape[0] != chunk.shape[0]:
        raise ValueError(
            f"This stream is of {past.shape[0]} signals. Received: a chunk of {chunk.shape[0]}. Other signals need a "
            "`Stream` of their own."
        )
    return ops.concatenate([past, chunk], axis=1)
