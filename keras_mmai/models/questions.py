"""What a `MultimodalGenerator` tells of signals, beside what it makes: classes, features, likelihoods and losses."""

import numpy as np

from keras_mmai.models.door import check_count
from keras_mmai.models.programs import Attention, Classify, Embed, Losses, Score


class Questions:
    """The questions that a `MultimodalGenerator` answers without generating. It has the door and the programs."""

    def classify(self, given, target, present=None, batch_size=100, verbose=0):
        """Probabilities of the ids of `target`, a modality of one id, given others: float32 (n, vocabulary).

        `given` and `present`: as those of `generate`.

        Raises:
            ValueError: on a target of more than one id, that is given, or that no task wants; and as `generate`.
        """
        if not isinstance(target, str):
            raise ValueError(f"`target` is the name of a modality. Received: {target!r}")
        self._door.check_names([target], "target")
        space = self.network.spaces[target]
        if space.vocabulary is None or space.num_tokens * space.num_codes > 1 or space.adaln:
            raise ValueError(f"`target` must be a modality of one id, such as a label. Received: {target!r}")
        self._door.check_learned([target], "target", "wanted")
        self._door.check_given(given)
        if target in given:
            raise ValueError(f"`target` is not given. Received: {target!r} in `given`")
        inputs, _ = self._door.inputs(given, present, batch_size=batch_size)
        return self._program(Classify, target).predict(inputs, batch_size=batch_size, verbose=verbose)

    def embed(self, given, present=None, batch_size=100, verbose=0):
        """The mean of the last block's tokens of what is given, which some task gives: float32 (n, hidden_dim).

        `given` and `present`: as those of `generate`.

        Raises:
            ValueError: on nothing given, or conditions (`adaln`) alone; and as `generate`.
        """
        self._door.check_given(given)
        if all(self._by_name[name].adaln for name in given):
            raise ValueError(f"A condition (`adaln`) has no tokens to embed. Received: {sorted(given)}")
        inputs, _ = self._door.inputs(given, present, batch_size=batch_size)
        return self._program(Embed).predict(inputs, batch_size=batch_size, verbose=verbose)

    def score(self, signals, given=None, present=None, num_draws=64, seed=0, batch_size=100, verbose=0):
        """An upper bound of -log p(signals | given) in nats, each example's: equation (6) of masked diffusion.

        Of a modality of one id `classify` tells the likelihood itself.

        Args:
            signals: dict of one modality of ids, (n, ...).
            given, present: as those of `generate`. The signals may be in `present`, too: their absent tokens are left
                out of the bound.
            num_draws: int, noise levels for each example, one in each of as many strata.

        Returns:
            dict: "bound" and its "standard_error", float32 (n,) each, the latter as if the draws were independent:
            strata make it smaller. The mean over a data set has the standard error of the mean of "bound".

        Raises:
            ValueError: on latents, which have no such bound, or more than one modality.
        """
        given = {} if given is None else given
        self._door.check_dict(signals, "signals")
        self._door.check_dict(given, "given")
        if len(signals) != 1 or set(signals) & set(given):
            raise ValueError(f"`signals` is one modality that is not given. Received: {sorted(signals)}")
        (name,) = signals
        if self._by_name[name].tokens != "codes" or self._by_name[name].adaln:
            raise ValueError(f"{name!r} is not generated as ids: its likelihood has no such bound.")
        check_count(num_draws, "num_draws", 2)
        self._door.check_seed(seed)
        self._door.check_learned(signals, "signals", "wanted")
        self._door.check_learned(given, "given", "given")
        inputs, _ = self._door.inputs({**given, **signals}, present, seed=seed, batch_size=batch_size)
        return self._program(Score, name, num_draws).predict(inputs, batch_size=batch_size, verbose=verbose)

    def losses(self, signals, t, given=None, present=None, seed=0, batch_size=100, verbose=0):
        """The training loss of signals at one noise level: each example's, float32 (n,), by name.

        Args:
            signals: dict by modality of signals (n, ...): noise of the level t is laid on all of them.
            t: float in [0, 1].
            given, present: as those of `generate`.
            seed: of the noise, which is the same for every t: int or int32 (n, 2).

        Raises:
            ValueError: on signals that are given or not generated, or another noise level; and as `generate`.
        """
        given = {} if given is None else given
        self._door.check_dict(signals, "signals")
        self._door.check_dict(given, "given")
        if not signals or set(signals) & set(given) or any(self._by_name[name].adaln for name in signals):
            raise ValueError(
                "`signals` are one or more modalities that are generated and not given. Received: "
                f"signals={sorted(signals)}, given={sorted(given)}"
            )
        self._door.check_learned(signals, "signals", "wanted")
        self._door.check_learned(given, "given", "given")
        targets = tuple(m.name for m in self.modalities if m.name in signals)
        inputs = self._at_level({**given, **signals}, t, present, seed, batch_size)
        return self._program(Losses, targets).predict(inputs, batch_size=batch_size, verbose=verbose)

    def attention(self, signals, source, target, t, present=None, seed=0, batch_size=100, verbose=0):
        """How much of its attention a modality gives to each token of another while it is generated.

        Args:
            signals: dict by modality of signals (n, ...), those of `source` and `target` among them; all are given but
                the target.
            source, target: names.
            t: float in [0, 1], the noise level of the target.
            present, seed: as those of `losses`.

        Returns:
            float32 (n, *grid): the mean over blocks, heads and the target's tokens; a token's attention to all tokens,
            its own modality's among them, is 1 in sum.

        Raises:
            ValueError: on a source or target that is not among the signals or is a condition (`adaln`), or factorized
                attention.
        """
        self._door.check_dict(signals, "signals")
        for argument, name in (("source", source), ("target", target)):
            if name not in signals or self._by_name[name].adaln:
                raise ValueError(f"`{argument}` is one of `signals` that has tokens. Received: {name!r}")
        if self.network.attention != "full":
            raise ValueError("In factorized attention no token attends to all others: there is nothing to show.")
        self._door.check_learned([target], "target", "wanted")
        self._door.check_learned(set(signals) - {target}, "signals", "given")
        inputs = self._at_level(signals, t, present, seed, batch_size)
        maps = self._program(Attention, source, target).predict(inputs, batch_size=batch_size, verbose=verbose)
        return maps.reshape(-1, *self.network.spaces[source].grid)

    def _at_level(self, signals, t, present, seed, batch_size):
        if not isinstance(t, int | float | np.number) or not 0 <= t <= 1:
            raise ValueError(f"`t` is a noise level in [0, 1]. Received: {t}")
        self._door.check_seed(seed)
        inputs, rows = self._door.inputs(signals, present, seed=seed, batch_size=batch_size)
        return {**inputs, "t": np.full(rows, t, "float32")}
