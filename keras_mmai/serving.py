"""SavedModels for TF Serving, from any backend.

`model.export(directory)` writes `directory/1/saved_model.pb`, the layout TF Serving watches, with the model's own
named signatures and one warm-up request for each. The graph is always traced by TensorFlow: in this process when it
is the active backend, else in a child process that loads the saved model. Written beside its place, then moved there.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np


class NotServable(ValueError):
    """A SavedModel has no operation for what is to be exported."""


class Servable:
    """A model that offers `serving_signatures()`: {name: (function, {argument: (shape without batch, dtype)})}.

    The functions take tensors by name and return a dict of tensors; the batch axis, which comes first, is free.
    """

    def export(self, filepath, version=1, verbose=True):
        """Writes a SavedModel to `filepath/version` and returns that path.

        Args:
            filepath: the folder that TF Serving is told about.
            version: int; one that exists is replaced.
            verbose: whether to print where it is.
        """
        signatures = ", ".join(self.serving_signatures())  # before anything is written: some models can't be served
        target = pathlib.Path(filepath) / str(int(version))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
            written = pathlib.Path(folder) / "model"
            if keras.backend.backend() == "tensorflow":
                write_saved_model(self, written)
            else:
                _write_in_child_process(self, pathlib.Path(folder) / "model.keras", written)
            if target.exists():
                os.replace(target, pathlib.Path(folder) / "replaced")
            os.replace(written, target)
        if verbose:
            print(f"SavedModel written to {target}: signatures {signatures}")
        return target


def codec_signatures(encode, decode, x, tokens):
    """The signatures encode, decode and reconstruct of a tokenizer: of two functions of one tensor, and the (shape
    without batch, dtype) of what each takes.
    """
    return {
        "encode": (lambda x: {"tokens": encode(x)}, {"x": x}),
        "decode": (lambda tokens: {"x": decode(tokens)}, {"tokens": tokens}),
        "reconstruct": (lambda x: {"x": decode(encode(x))}, {"x": x}),
    }


def _write_in_child_process(model, saved, written):
    model.save(saved)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "PYTHONPATH": os.pathsep.join(
            [str(pathlib.Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
    }
    code = (
        "import sys, keras, keras_mmai\n"
        "from keras_mmai.serving import write_saved_model\n"
        "write_saved_model(keras.saving.load_model(sys.argv[1], compile=False), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(saved), str(written)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(
            "Tracing the model on the TensorFlow backend failed, and nothing was written. The child "
            f"process said:\n{result.stderr[-4000:]}"
        )


def write_saved_model(model, directory):
    """Traces `model.serving_signatures()` with TensorFlow, the active backend, and saves them to `directory`."""
    import tensorflow as tf

    module = tf.Module()
    module.variables_in_use = [v.value for v in model.variables]
    functions, requests = {}, []
    for name, (function, arguments) in model.serving_signatures().items():
        specs = {key: tf.TensorSpec((None, *shape), dtype, name=key) for key, (shape, dtype) in arguments.items()}
        functions[name] = tf.function(_checked(function, specs)).get_concrete_function(**specs)
        requests.append((name, {key: _zeros(shape, dtype) for key, (shape, dtype) in arguments.items()}))
    first = next(iter(functions))
    tf.saved_model.save(module, str(directory), signatures={**functions, "serving_default": functions[first]})
    extra = pathlib.Path(directory) / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for name, inputs in requests:
            writer.write(warm_up_request(name, inputs))


def _zeros(shape, dtype):
    return np.zeros((1, *shape), "S1" if dtype == "string" else dtype)


def _checked(function, specs):
    """A SavedModel computes something of inputs of any shape, unless its graph says that it must not."""
    import tensorflow as tf

    return lambda **inputs: function(**{key: tf.ensure_shape(x, specs[key].shape) for key, x in inputs.items()})


# Signatures on strings, and checks of values. Keras has operations for neither; TensorFlow, which traces, has.


def ensure_ids(ids, vocabulary, lowest=0):
    """The int tensor itself, and in the graph an error on ids out of lowest..vocabulary-1.

    `vocabulary` is an int, or an array of one for each place of the last axes.
    """
    import tensorflow as tf

    message = f"ids must be in {lowest}..{np.max(vocabulary) - 1}"
    checks = [
        tf.debugging.assert_greater_equal(ids, tf.cast(lowest, ids.dtype), message=message),
        tf.debugging.assert_less(ids, tf.cast(vocabulary, ids.dtype), message=message),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(ids)


def bytes_of_strings(x, length):
    """Strings (b,) to ids (b, length) int32, byte + 1, padded with 0; in the graph an error on longer strings."""
    import tensorflow as tf

    size = tf.strings.length(x)
    check = tf.debugging.assert_less_equal(size, length, message=f"a text has more than length={length} bytes")
    with tf.control_dependencies([check]):
        values = tf.cast(tf.io.decode_raw(x, tf.uint8, fixed_length=length), tf.int32)
    return tf.where(tf.range(length) < size[:, None], values + 1, 0)


def strings_of_bytes(ids):
    """Ids (b, length) in 0..256 to strings (b,): byte + 1, and nothing for 0."""
    import tensorflow as tf

    table = tf.constant([b"", *(bytes([byte]) for byte in range(256))])
    return tf.strings.reduce_join(tf.gather(table, ensure_ids(ids, 257)), axis=-1)


def warm_up_request(signature, inputs):
    """A serialized `tensorflow.serving.PredictionLog` that calls `signature` with numpy `inputs`.

    Written field by field, since the package that holds these messages is not a dependency: PredictionLog.predict_log
    is field 6, PredictLog.request 1, PredictRequest.model_spec 1 and .inputs 2 (a map: key 1, value 2),
    ModelSpec.signature_name 3.
    """
    import tensorflow as tf

    def field(number, payload):
        length, size = b"", len(payload)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + payload

    request = field(1, field(3, signature.encode()))
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += field(2, field(1, name.encode()) + field(2, tensor))
    return field(6, field(1, request))
