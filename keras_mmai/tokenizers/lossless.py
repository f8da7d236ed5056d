"""Tokenizers of what is tokens already: nothing is lost, and nothing is trained by gradient."""

import keras
import numpy as np
from keras import ops

from keras_mmai.serialization import register
from keras_mmai.serving import NotServable, Servable, codec_signatures, ensure_ids


class LosslessTokenizer(Servable, keras.Model):
    """Base of the tokenizers that are exact: decode(encode(x)) is x.

    The contract is that of `Tokenizer` without training by gradient: `encode`, `decode`, `reconstruct`, `vocabulary`
    (the number of different tokens; None: floats), `token_shape` (of one example's tokens), saved by `save`, served by
    `export`. Data on the host (lists, numpy arrays) comes back as numpy and is checked by value. Where there is no
    text, a backend's tensor comes back as a tensor, checked by shape and dtype, so that a compiled step can hold it.
    """

    vocabulary = None

    def __init__(self, token_shape, **kwargs):
        super().__init__(**kwargs)
        token_shape = tuple(token_shape)
        if not all(isinstance(size, int) and size > 0 for size in token_shape):
            raise ValueError(f"The shape of tokens is of ints above 0, all known. Received: {token_shape}")
        self.token_shape = token_shape
        self.built = True

    def get_build_config(self):
        return None  # there are no weights

    def encode(self, x):
        raise NotImplementedError

    def decode(self, tokens):
        raise NotImplementedError

    def reconstruct(self, x):
        """decode(encode(x)), which is x, in the form that `decode` gives."""
        return self.decode(self.encode(x))

    def serving_signatures(self):
        raise NotServable(f"{type(self).__name__} can't be served: it has no `serving_signatures`.")

    def fit(self, *args, **kwargs):
        raise ValueError(f"{type(self).__name__} has nothing to learn: use it as it is.")


def checked_ids(ids, shape, vocabulary, name):
    """Ids (b, *shape) in 0..vocabulary-1 as int32: a tensor if they are one, else numpy.

    Raises:
        ValueError: on another shape, on what is not integers, and, of what is no tensor, on ids out of range.
    """
    on_host = not ops.is_tensor(ids)
    ids = np.asarray(ids) if on_host else ids
    dtype = str(ids.dtype) if on_host else keras.backend.standardize_dtype(ids.dtype)
    if len(ids.shape) != 1 + len(shape) or tuple(ids.shape[1:]) != tuple(shape) or "int" not in dtype:
        raise ValueError(
            f"{name} are integers of shape {('b', *shape)} in 0..{vocabulary - 1}. Received: {tuple(ids.shape)} {dtype}"
        )
    if on_host and ids.size and not 0 <= ids.min() <= ids.max() < vocabulary:
        raise ValueError(
            f"{name} must be in 0..{vocabulary - 1}. Received: values from {ids.min()} to {ids.max()}, the first "
            f"outside at index {tuple(int(i) for i in np.argwhere((ids < 0) | (ids >= vocabulary))[0])}"
        )
    return ids.astype("int32") if on_host else ops.cast(ids, "int32")


@register
class PassThrough(LosslessTokenizer):
    """Tokens that come from elsewhere, checked and else left alone.

    With a vocabulary tokens are ids, (b, *token_shape) integers in 0..vocabulary-1, given back as int32; without they
    are latents, (b, *token_shape) floats, given back as float32. `encode` and `decode` are the same.

    Args:
        token_shape: tuple of ints, of one example's tokens; of latents with their channels.
        vocabulary: int, the number of different ids; None: latents.

    Raises:
        ValueError: at the door on another shape, another kind of dtype, or ids out of range.
    """

    def __init__(self, token_shape, vocabulary=None, **kwargs):
        super().__init__(token_shape, **kwargs)
        if vocabulary is not None and vocabulary < 1:
            raise ValueError(f"`vocabulary` is the number of different ids, or None. Received: {vocabulary}")
        self.vocabulary = vocabulary
        if vocabulary is None:
            self.latent_shape = self.token_shape

    def encode(self, x):
        return self._checked(x)

    def decode(self, tokens):
        return self._checked(tokens)

    def _checked(self, tokens):
        if self.vocabulary is not None:
            return checked_ids(tokens, self.token_shape, self.vocabulary, f"Tokens of {self.name}")
        on_host = not ops.is_tensor(tokens)
        tokens = np.asarray(tokens) if on_host else tokens
        dtype = str(tokens.dtype) if on_host else keras.backend.standardize_dtype(tokens.dtype)
        if tuple(tokens.shape[1:]) != self.token_shape or not len(tokens.shape) or "float" not in dtype:
            raise ValueError(
                f"Latents of {self.name} are floats of shape {('b', *self.token_shape)}. "
                f"Received: {tuple(tokens.shape)} {dtype}"
            )
        return tokens.astype("float32") if on_host else ops.cast(tokens, "float32")

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})} of the SavedModel that `export` writes."""
        if self.vocabulary is None:
            spec = (self.token_shape, "float32")
            return codec_signatures(self.encode, self.decode, spec, spec)
        spec = (self.token_shape, "int32")

        def check(ids):
            return ensure_ids(ids, self.vocabulary)

        return codec_signatures(check, check, spec, spec)
