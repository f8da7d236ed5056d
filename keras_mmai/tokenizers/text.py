"""Text to ids and back, exactly. Id 0 is padding; a text's own ids come first and are above 0."""

import pathlib

import numpy as np
from keras import ops

from keras_mmai.serialization import register
from keras_mmai.serving import NotServable, bytes_of_strings, codec_signatures, strings_of_bytes
from keras_mmai.tokenizers.lossless import LosslessTokenizer, checked_ids


class TextTokenizer(LosslessTokenizer):
    """Base of the text tokenizers: b texts to tokens (b, length) int32 in 0..vocabulary-1, and back to a list of b str.

    A subclass has `vocabulary`, and gives `ids_of` and `text_of` for one text.

    Args:
        length: int, ids of each text; shorter ones are padded with 0.
    """

    def __init__(self, length, **kwargs):
        if not isinstance(length, int) or length < 1:
            raise ValueError(f"`length` is the number of ids of each text, at least 1. Received: {length!r}")
        super().__init__((length,), **kwargs)
        self.length = length

    def ids_of(self, text):
        """The ids of one str, as a sequence of ints 1..vocabulary-1, of any length."""
        raise NotImplementedError

    def text_of(self, ids):
        """The str of a numpy array of ids, each 1..vocabulary-1."""
        raise NotImplementedError

    def encode(self, texts):
        """Texts to tokens, numpy (b, length) int32.

        Args:
            texts: b texts along one axis: a list of str, a numpy array of str or of bytes in UTF-8, or a string tensor
                of TensorFlow. (Numpy's own str and bytes arrays forget NUL characters at the end; object arrays don't.)

        Raises:
            ValueError: on what is not texts along one axis, bytes that are not UTF-8, a lone surrogate, a text of more
                than `length` ids.
        """
        texts = strings(texts, "Texts")
        tokens = np.zeros((len(texts), self.length), "int32")
        for row, text in enumerate(texts):
            ids = self.ids_of(text)
            if len(ids) > self.length:
                raise ValueError(
                    f"{type(self).__name__} holds `length` = {self.length} ids of each text. Received: a text of "
                    f"{len(ids)} at index {row}, {text!r:.60}. Give a larger `length`, or shorten the texts by "
                    "`truncate`."
                )
            tokens[row, : len(ids)] = ids
        return tokens

    def decode(self, tokens):
        """Tokens (b, length), ints in 0..vocabulary-1, to a list of b str. Padding is left out, wherever it stands.

        Raises:
            ValueError: on another shape than (b, length), what is not integers, and ids out of range.
        """
        tokens = ops.convert_to_numpy(tokens) if ops.is_tensor(tokens) else tokens
        tokens = checked_ids(tokens, self.token_shape, self.vocabulary, "Tokens of text")
        return [self.text_of(row[row > 0]) for row in tokens]

    def mask(self, tokens):
        """Which of the tokens (b, length), numpy or a tensor, are text and not padding: bool (b, length)."""
        return tokens != 0

    def truncate(self, texts):
        """Each of b texts, or what of its beginning fits `length`, cut between two ids, never inside a character.

        Returns:
            A list of b str, which `encode` takes.
        """
        return [self._beginning(text) for text in strings(texts, "Texts")]

    def _beginning(self, text):
        ids = np.asarray(self.ids_of(text), "int32")
        for end in range(min(self.length, len(ids)), -1, -1):
            part = self.text_of(ids[:end])
            # a character cut in two does not come back; and a part can have other ids than it had in the whole
            if text.startswith(part) and len(self.ids_of(part)) <= self.length:
                return part

    def serving_signatures(self):
        raise NotServable(
            f"{type(self).__name__} can't be exported: a SavedModel has no operation for its text. Encode and decode "
            "beside the server, or use `ByteTokenizer`, which is exported with strings."
        )


@register
class ByteTokenizer(TextTokenizer):
    """Text as the bytes of its UTF-8: id = byte + 1, vocabulary 257. Exact for every text.

    `decode` shows bytes that are no UTF-8, such as a model may generate, as U+FFFD. The SavedModel takes and gives
    strings (b,); its `decode` gives the bytes as they are.

    Args:
        length: int, bytes of each text; shorter ones are padded with id 0.
    """

    vocabulary = 257

    def __init__(self, length, **kwargs):
        super().__init__(length, **kwargs)

    def ids_of(self, text):
        return np.frombuffer(text.encode(), "uint8").astype("int32") + 1

    def text_of(self, ids):
        return (ids - 1).astype("uint8").tobytes().decode(errors="replace")

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})} of the SavedModel that `export` writes."""
        return codec_signatures(
            lambda x: bytes_of_strings(x, self.length), strings_of_bytes, ((), "string"), (self.token_shape, "int32")
        )


class LearnedTextTokenizer(TextTokenizer):
    """Base of the text tokenizers that `fit` learns from texts. What is learned is a str, `state`.

    It is saved by `save`, and is, as weights are, no part of the config. A subclass gives `learn` and `restore`.
    """

    def __init__(self, length, **kwargs):
        super().__init__(length, **kwargs)
        self.state = None

    def learn(self, texts):
        """From an iterator of str to the state, a str."""
        raise NotImplementedError

    def restore(self, state):
        """Makes this tokenizer that of the state."""
        raise NotImplementedError

    def fit(self, texts):
        """Learns from texts, and forgets what was learned before. Returns the tokenizer itself.

        Args:
            texts: an iterable of str, of bytes in UTF-8, or of arrays or string tensors of them: a list, an array, a
                generator, a `tf.data.Dataset` (batched or not).

        Raises:
            ValueError: on no text at all, on what is not text, or what is learned does not suffice.
        """
        self._set(self.learn(_each(texts)))
        return self

    def _set(self, state):
        self.restore(state)
        self.state = state

    def check_fitted(self):
        if self.state is None:
            raise ValueError(f"{type(self).__name__} has learned nothing yet: call `fit` with texts, or load one.")

    def encode(self, texts):
        self.check_fitted()
        return super().encode(texts)

    def decode(self, tokens):
        self.check_fitted()
        return super().decode(tokens)

    def truncate(self, texts):
        self.check_fitted()
        return super().truncate(texts)

    def save_assets(self, folder):
        if self.state is not None:
            (pathlib.Path(folder) / "state").write_bytes(self.state.encode())

    def load_assets(self, folder):
        path = pathlib.Path(folder) / "state"
        if path.exists():
            self._set(path.read_bytes().decode())


def strings(texts, name):
    """A list of str, of texts along one axis in any of the forms that `TextTokenizer.encode` takes.

    Raises:
        ValueError: on another form, bytes that are not UTF-8, and lone surrogates.
    """
    # dtype object: an array of numpy's own str would cut NUL characters at the end
    array = np.asarray(texts, dtype=object)
    if array.ndim != 1:
        raise ValueError(f"{name} must be str along one axis, as a list or array. Received: {texts!r:.200}")
    return [_string(text, f"{name}, index {index}") for index, text in enumerate(array)]


def _string(text, name):
    try:
        if isinstance(text, bytes):
            return text.decode()
        if isinstance(text, str):
            text.encode()  # fails on a lone surrogate, half of a character
            return str(text)
    except UnicodeError as error:
        raise ValueError(f"{name}: not in UTF-8, or half of a character ({error}). Received: {text!r:.200}") from error
    raise ValueError(f"{name}: must be str, or bytes in UTF-8. Received: {text!r:.200}")


def _each(texts):
    """Every str of an iterable of texts or of batches of texts."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"`fit` takes an iterable of texts, such as [text]. Received: one, {texts!r:.60}")
    found = False
    for item in texts:
        for text in np.ravel(np.asarray(item, dtype=object)):
            found = True
            yield _string(text, "Texts")
    if not found:
        raise ValueError("`fit` needs texts. Received: none.")
