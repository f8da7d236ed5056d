"""Text as characters of an alphabet."""

import numpy as np

from keras_mmai.serialization import register
from keras_mmai.tokenizers.text import LearnedTextTokenizer, strings


@register
class CharacterTokenizer(LearnedTextTokenizer):
    """Text as characters (Unicode code points) of a fixed alphabet: id = place in the alphabet + 1, 0 is padding.

    Args:
        length: int, characters of each text; shorter ones are padded with id 0.
        characters: str of distinct characters, the alphabet in this order. None: `fit(texts)` learns it, sorted by code
            point, so that neither the order of the texts nor how often a character comes matters.

    Raises:
        ValueError: on an alphabet that is empty or has a character twice; by `fit`, on a tokenizer that was given its
            alphabet; by `encode`, on characters that are not in the alphabet, which it names with their places.
    """

    def __init__(self, length, characters=None, **kwargs):
        super().__init__(length, **kwargs)
        self.characters = characters
        if characters is not None:
            strings([characters], "`characters`")
            twice = sorted({c for c in characters if characters.count(c) > 1})
            if not characters or twice:
                raise ValueError(f"`characters` are distinct, at least one. Received: {characters!r}, twice: {twice}")
            self._set(characters)

    @property
    def vocabulary(self):
        """Number of characters + 1."""
        self.check_fitted()
        return len(self.state) + 1

    def learn(self, texts):
        if self.characters is not None:
            raise ValueError(f"The alphabet was given, characters={self.characters!r}: leave it out to learn one.")
        alphabet = "".join(sorted(set().union(*texts)))
        if not alphabet:
            raise ValueError("`fit` needs texts with characters. Received: empty texts only.")
        return alphabet

    def restore(self, state):
        self._id_of = {character: i + 1 for i, character in enumerate(state)}
        self._alphabet = np.array([*state], dtype=object)

    def ids_of(self, text):
        try:
            return [self._id_of[character] for character in text]
        except KeyError:
            places = {c: text.index(c) for c in sorted(set(text)) if c not in self._id_of}
            found = ", ".join(f"{c!r} at {place}" for c, place in [*places.items()][:10])
            raise ValueError(
                f"The alphabet of {len(self._id_of)} characters lacks {found} of the text {text!r:.60}. Replace them, "
                "`fit` on texts that have them, or use `ByteTokenizer`, which takes every text."
            ) from None

    def text_of(self, ids):
        return "".join(self._alphabet[ids - 1])
