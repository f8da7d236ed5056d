import keras
import numpy as np
import pytest

from keras_mmai.data import ArrayDataset
from keras_mmai.data.arrays import epoch_order

X = np.linspace(-1.0, 1.0, 22, dtype="float32")[:, None]  # (22, 1)
Y = 3.0 * X**2 - 1.0


def make_model():
    kernel = keras.initializers.Constant(0.5)
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer=kernel)])
    # A large rate without averaging, so that the weights depend on the order of the batches.
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss="mse")
    return model


def epochs_of(dataset, num_epochs):
    batches = []
    for _ in range(num_epochs):
        dataset.on_epoch_begin()
        batches += [dataset[i] for i in range(len(dataset))]
        dataset.on_epoch_end()
    return batches


class EpochAtBegin(keras.callbacks.Callback):
    def __init__(self, dataset):
        super().__init__()
        self.dataset, self.seen = dataset, []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append((epoch, self.dataset.epoch))


def test_an_epoch_reads_each_row_once_and_its_rows_stay_together():
    dataset = ArrayDataset({"a": np.arange(10), "b": {"c": np.arange(10) * 2}}, batch_size=4, drop_remainder=False)
    batches = epochs_of(dataset, 1)
    assert [len(batch["a"]) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate([batch["a"] for batch in batches])) == list(range(10))
    for batch in batches:
        np.testing.assert_array_equal(batch["b"]["c"], 2 * batch["a"])


def test_the_remainder_is_dropped_by_default_and_order_kept_without_shuffle():
    dataset = ArrayDataset(np.arange(10), batch_size=4, shuffle=False)
    assert len(dataset) == 2
    np.testing.assert_array_equal(epochs_of(dataset, 2), [[0, 1, 2, 3], [4, 5, 6, 7]] * 2)
    with pytest.raises(IndexError, match="2 batches"):
        dataset[2]


def test_order_is_a_function_of_seed_and_epoch():
    # A golden: this stream may never change, or no older run could be resumed.
    assert epoch_order(8, seed=0, epoch=0).tolist() == [3, 7, 4, 0, 2, 6, 5, 1]
    whole = epochs_of(ArrayDataset(np.arange(32), batch_size=8, seed=1), 4)
    resumed = ArrayDataset(np.arange(32), batch_size=8, seed=1)
    resumed.epoch = 2
    np.testing.assert_array_equal(epochs_of(resumed, 2), whole[8:])
    assert not np.array_equal(whole[:4], whole[4:8])
    assert not np.array_equal(whole[:4], epochs_of(ArrayDataset(np.arange(32), batch_size=8, seed=2), 1))


@pytest.mark.parametrize("built", [False, True])
def test_fit_advances_the_epoch_once_per_epoch_whatever_keras_peeks_at(built):
    model, dataset = make_model(), ArrayDataset((X, Y), batch_size=5)
    validation = ArrayDataset((X, Y), batch_size=11, shuffle=False)
    if built:
        model.build((None, 1))
    counter = EpochAtBegin(dataset)
    model.fit(dataset, validation_data=validation, epochs=3, callbacks=[counter], verbose=0)
    assert counter.seen == [(0, 0), (1, 1), (2, 2)]
    model.fit(dataset, validation_data=validation, epochs=5, initial_epoch=3, callbacks=[counter], verbose=0)
    assert counter.seen[3:] == [(3, 3), (4, 4)]
    assert dataset.epoch == 5


class Recorder(ArrayDataset):
    """Keeps the batches read since each beginning of an epoch."""

    def on_epoch_begin(self):
        self.read = [*getattr(self, "read", []), []]
        super().on_epoch_begin()

    def __getitem__(self, index):
        batch = super().__getitem__(index)
        if hasattr(self, "read"):
            self.read[-1].append(batch[0])
        return batch


@pytest.mark.parametrize("shuffle", [False, True])
def test_fit_sees_our_order_though_keras_shuffles_the_batches_with_a_global_generator(shuffle):
    dataset = Recorder((X, Y), batch_size=5, shuffle=shuffle, seed=3)
    make_model().fit(dataset, epochs=3, verbose=0)
    for epoch, batches in enumerate(dataset.read[-3:]):  # a peek may have come before
        order = epoch_order(22, 3, epoch) if shuffle else np.arange(22)
        np.testing.assert_array_equal(np.concatenate(batches), X[order[:20]])


def test_each_pass_is_whole_when_steps_per_epoch_cuts_it():
    dataset = Recorder((X, Y), batch_size=5)  # 4 batches
    make_model().fit(dataset, epochs=4, steps_per_epoch=2, verbose=0)
    assert dataset.epoch == 2
    read = np.concatenate([np.concatenate(batches) for batches in dataset.read[-4:] if batches])
    expected = np.concatenate([X[epoch_order(22, 0, epoch)[:20]] for epoch in (0, 1)])
    np.testing.assert_array_equal(read[: len(expected)], expected)


def test_a_resumed_fit_equals_the_uninterrupted_one():
    whole = make_model()
    whole.fit(ArrayDataset((X, Y), batch_size=5, seed=7), epochs=4, verbose=0)

    first = make_model()
    first.fit(ArrayDataset((X, Y), batch_size=5, seed=7), epochs=2, verbose=0)

    def go_on(epoch):
        model, dataset = make_model(), ArrayDataset((X, Y), batch_size=5, seed=7)
        model.build((None, 1))
        model.set_weights(first.get_weights())
        dataset.epoch = epoch
        model.fit(dataset, initial_epoch=2, epochs=4, verbose=0)
        return model.get_weights()

    for resumed, weights in zip(go_on(2), whole.get_weights()):
        np.testing.assert_array_equal(resumed, weights)
    assert any((forgotten != weights).any() for forgotten, weights in zip(go_on(0), whole.get_weights()))


def test_a_dict_is_the_input_and_predict_keeps_the_order():
    inputs = {"x": keras.Input((1,), name="x"), "shift": keras.Input((1,), name="shift")}
    model = keras.Model(inputs, keras.ops.add(inputs["x"], inputs["shift"]))
    dataset = ArrayDataset({"x": X, "shift": Y}, batch_size=11, shuffle=False)
    np.testing.assert_allclose(model.predict(dataset, verbose=0), X + Y, atol=1e-6)


@pytest.mark.parametrize(
    "arrays, batch_size, message",
    [
        ({"x": X, "y": {"z": Y[:3]}}, 2, r"'x': 22, 'y/z': 3"),
        ((X, Y), 23, "number of rows, 22"),
        ((X, Y), 0, "between 1 and"),
        (X[:0], 1, "empty"),
        ({}, 1, "nested dict or tuple"),
        ((X, 3.0), 1, r"Without rows: \['1'\]"),
    ],
)
def test_errors_name_what_is_wrong(arrays, batch_size, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(arrays, batch_size=batch_size)
