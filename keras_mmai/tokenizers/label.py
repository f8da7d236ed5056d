"""A class label as one token."""

import keras
import numpy as np
from keras import ops

from keras_mmai.serialization import register
from keras_mmai.serving import codec_signatures, ensure_ids
from keras_mmai.tokenizers.lossless import LosslessTokenizer, checked_ids
from keras_mmai.tokenizers.text import strings


@register
class LabelTokenizer(LosslessTokenizer):
    """Class labels (b,) to tokens (b, 1) int32 in 0..vocabulary-1, and back.

    Labels are ints 0..vocabulary-1, or names if the classes have them: the token is the place in the list of names.
    `decode` gives names, a list of b str, if there are any, else ints (b,) int32. A SavedModel takes and gives ints.

    Args:
        classes: int, the number of classes, or their names, distinct str.

    Raises:
        ValueError: at construction on no class, or a name that comes twice; at the door on labels that are not along
            one axis, on an int out of range, on a name that is no class.
    """

    def __init__(self, classes, **kwargs):
        super().__init__((1,), **kwargs)
        self.classes = classes if isinstance(classes, int) else tuple(strings(classes, "`classes`"))
        self.names = () if isinstance(classes, int) else self.classes
        self.vocabulary = len(self.names) or self.classes
        if not isinstance(self.vocabulary, int) or self.vocabulary < 1:
            raise ValueError(f"`classes` is a number above 0, or names. Received: {classes!r}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"The names in `classes` must be distinct. Received twice: {twice}")

    def encode(self, labels):
        """Labels (b,), ints or names, to tokens (b, 1) int32."""
        if _are_integers(labels):
            return checked_ids(labels, (), self.vocabulary, "Labels")[:, None]
        if not self.names:
            raise ValueError(
                f"Labels are ints (b,) in 0..{self.vocabulary - 1}; for names give them as `classes`. "
                f"Received: {labels!r:.200}"
            )
        place = {name: token for token, name in enumerate(self.names)}
        labels = strings(labels, "Labels")
        unknown = {name: row for row, name in reversed([*enumerate(labels)]) if name not in place}
        if unknown:
            found = ", ".join(f"{name!r} at {row}" for name, row in sorted(unknown.items())[:5])
            raise ValueError(f"Labels must be among the names {self.names}. Received: {found}")
        return np.array([place[name] for name in labels], "int32").reshape(-1, 1)

    def decode(self, tokens):
        """Tokens (b, 1) to labels: a list of names, or ints (b,) int32."""
        if self.names and ops.is_tensor(tokens):
            tokens = ops.convert_to_numpy(tokens)
        ids = checked_ids(tokens, (1,), self.vocabulary, "Tokens of labels")[:, 0]
        return [self.names[i] for i in ids] if self.names else ids

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})} of the SavedModel that `export` writes."""
        return codec_signatures(
            lambda x: ensure_ids(x, self.vocabulary)[:, None],
            lambda tokens: ensure_ids(tokens, self.vocabulary)[:, 0],
            ((), "int32"),
            ((1,), "int32"),
        )


def _are_integers(labels):
    if ops.is_tensor(labels):
        return "int" in keras.backend.standardize_dtype(labels.dtype)
    return np.asarray(labels).dtype.kind in "iu"
