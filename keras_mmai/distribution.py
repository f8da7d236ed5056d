"""Several replicas of a model that train on parts of one batch.

A replica is one of TensorFlow's `tf.distribute` strategy, or a process of `torch.distributed`. JAX computes on the
whole, distributed batch, so that there is one.
"""

import keras

# Keywords of a weight that training moves without the optimizer, when every replica computes the same
STATE = dict(trainable=False, autocast=False, dtype="float32", aggregation="mean")


def sum_across_replicas(x):
    """The sum of a tensor over the replicas of a training step; `x` itself where there is one."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, x)
    elif keras.backend.backend() == "torch":
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            x = x.clone()
            torch.distributed.all_reduce(x)
    return x


def of_first_replica(x):
    """The first replica's tensor, bool or float32, on every replica."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            is_first = tf.equal(context.replica_id_in_sync_group, 0)
            only_first = tf.where(is_first, tf.cast(x, "float32"), 0.0)
            return tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, only_first), x.dtype)
    elif keras.backend.backend() == "torch":
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            x = x.clone()
            torch.distributed.broadcast(x, 0)
    return x


class UntunedData:
    """A `keras.Model` after it runs through data sets that tf.data does not tune, unless their options say that it may.

    tf.data's autotuner looks at a data set at ever longer intervals. Whoever drops an iterator, as Keras does after an
    epoch, waits for the tuner to end, and half of the time that has missed its end and sleeps until its next look:
    after an epoch of 20 s for up to 20 more. Only TensorFlow is concerned.
    """

    @property
    def distribute_strategy(self):  # of which Keras has its data sets
        strategy = super().distribute_strategy
        import tensorflow as tf

        return strategy if tf.distribute.has_strategy() else _Untuned(strategy)


class _Untuned:
    """TensorFlow's default strategy, but for its data sets."""

    def __init__(self, strategy):
        self._strategy = strategy

    def __getattr__(self, name):
        return getattr(self._strategy, name)

    def experimental_distribute_dataset(self, dataset, options=None):
        import tensorflow as tf

        if dataset.options().autotune.enabled is None:
            untuned = tf.data.Options()
            untuned.autotune.enabled = False
            dataset = dataset.with_options(untuned)
        return self._strategy.experimental_distribute_dataset(dataset, options)
