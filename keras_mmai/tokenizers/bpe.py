"""Byte-pair encoding: Sennrich, Haddow & Birch, Neural Machine Translation of Rare Words with Subword Units, 2016,
arXiv:1508.07909; on bytes as by Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
"""

from keras_mmai.serialization import register
from keras_mmai.tokenizers.text import LearnedTextTokenizer


@register
class BPETokenizer(LearnedTextTokenizer):
    """Byte-level byte-pair encoding, learned by `fit(texts)`. Exact for every text, also of characters never seen.

    Ids 1..256 are the bytes in the library's order, those above are merges; 0 is padding, so no text can spell it.
    `decode` shows bytes that are no UTF-8, such as a model may generate, as U+FFFD. It can't be exported.

    Args:
        length: int, ids of each text; shorter ones are padded with id 0.
        vocabulary_size: int, 257 (bytes and padding, no merge) or more.

    Raises:
        ImportError: without Hugging Face's `tokenizers` (the extra `text` of this package).
        ValueError: on a smaller `vocabulary_size`; by `fit`, on texts too few for that many different ids.
    """

    def __init__(self, length, vocabulary_size, **kwargs):
        super().__init__(length, **kwargs)
        if vocabulary_size < 257:
            raise ValueError(
                f"`vocabulary_size` is at least 257: 256 bytes and padding. Received: {vocabulary_size}. For bytes "
                "without merges use `ByteTokenizer`."
            )
        _library()
        self.vocabulary_size = vocabulary_size
        self.vocabulary = vocabulary_size

    def learn(self, texts):
        hf = _library()
        bpe = hf.Tokenizer(hf.models.BPE())
        bpe.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = hf.decoders.ByteLevel()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=self.vocabulary_size - 1,
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        found = bpe.get_vocab_size() + 1
        if found < self.vocabulary_size:
            raise ValueError(
                f"These texts give no more than {found} different ids, and vocabulary_size={self.vocabulary_size}: "
                f"`fit` on more texts, or set vocabulary_size={found}."
            )
        return bpe.to_str()

    def restore(self, state):
        self._bpe = _library().Tokenizer.from_str(state)

    def ids_of(self, text):
        return [i + 1 for i in self._bpe.encode(text).ids]

    def text_of(self, ids):
        return self._bpe.decode((ids - 1).tolist(), skip_special_tokens=False)


def _library():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "`BPETokenizer` needs Hugging Face's `tokenizers`: pip install 'keras_mmai[text]', or pip install "
            "tokenizers. `ByteTokenizer` needs nothing."
        ) from error
    return tokenizers
