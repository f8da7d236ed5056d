import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_models import check_served

from keras_mmai import VAE, VQVAE, DiT, Generator
from keras_mmai.diffusion import Ancestral, ClassifierFreeGuidance, Euler, GaussianDiffusion, Heun
from keras_mmai.layers import (
    FiniteScalarQuantizer,
    GroupedQuantizer,
    LookupFreeQuantizer,
    ResidualQuantizer,
    SEANetDecoder,
    SEANetEncoder,
    SimVQ,
    VectorQuantizer,
)
from keras_mmai.serving import Servable, warm_up_request

BACKEND = keras.backend.backend()
SIZES = dict(num_residual_layers=1, residual_filters=8)
SEEDS = np.array([[1, 0], [1, 1], [2, 0]], "int32")
LABELS = np.array([0, 1, 2], "int32")  # 2: no label
X = np.random.RandomState(0).uniform(-1, 1, (3, 8, 8, 1)).astype("float32")


def make_tokenizer():
    return VQVAE((8, 8, 1), filters=(8,), quantizer=VectorQuantizer(16, 4, seed=0), **SIZES)


def make_generator():
    tokenizer = make_tokenizer()
    # wide enough for the weights to outweigh the graph's own text
    network = DiT(tokenizer.latent_shape, patch_size=2, hidden_dim=128, num_layers=1, num_heads=2, num_classes=2)
    for i, variable in enumerate(network.trainable_variables):  # a fresh DiT returns zero
        variable.assign(0.1 * keras.random.normal(variable.shape, seed=i))
    guidance = ClassifierFreeGuidance(2.0)
    return Generator(network, GaussianDiffusion(), tokenizer, Euler(), num_steps=3, guidance=guidance)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A generator, exported twice from the active backend, and its folder."""
    keras.utils.set_random_seed(0)
    model = make_generator()
    folder = tmp_path_factory.mktemp("served") / "generator"
    stale = folder / "1" / "stale"
    stale.mkdir(parents=True)  # a version that is there already
    assert model.export(folder, verbose=False) == folder / "1"
    return model, folder


READER = """
import sys
sys.modules["keras"] = None  # tensorflow imports it where it can
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
requests = np.load(sys.argv[2])
results = {"names": np.array(sorted(model.signatures))}
for key in requests.files:
    signature, _, argument = key.partition("/")
    results[key] = np.zeros(0)
for signature in sorted({key.partition("/")[0] for key in requests.files}):
    arguments = {key.partition("/")[2]: tf.constant(requests[key])
                 for key in requests.files if key.partition("/")[0] == signature}
    for name, value in model.signatures[signature](**arguments).items():
        results[f"{signature}/{name}"] = value.numpy()
try:
    model.signatures["encode"](x=tf.zeros((1, 4, 4, 1)))
    results["wrong"] = np.array("")
except Exception as error:
    results["wrong"] = np.array(str(error))
assert not any(name.startswith("keras") and module for name, module in sys.modules.items())
np.savez(sys.argv[3], **results)
"""


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """What a process with tensorflow and without keras gets from the exported model."""
    model, folder = exported
    files = tmp_path_factory.mktemp("requests")
    codes = np.random.RandomState(0).randint(0, 16, (3, 4, 4)).astype("int32")
    requests = {
        "generate/seed": SEEDS,
        "generate/labels": LABELS,
        "serving_default/seed": SEEDS[:1],
        "serving_default/labels": LABELS[:1],
        "encode/x": X,
        "reconstruct/x": X,
        "decode/tokens": codes,
    }
    np.savez(files / "in.npz", **requests)
    command = [sys.executable, "-c", READER, str(folder / "1"), str(files / "in.npz"), str(files / "out.npz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return model, requests, dict(np.load(files / "out.npz"))


def test_the_served_model_equals_the_one_in_python(served):
    model, requests, results = served
    assert results["names"].tolist() == ["decode", "encode", "generate", "reconstruct", "serving_default"]
    expected = model.predict({"seed": SEEDS, "labels": LABELS}, verbose=0)
    np.testing.assert_allclose(results["generate/x"], expected, atol=1e-5)
    np.testing.assert_allclose(results["serving_default/x"], expected[:1], atol=1e-5)
    tokenizer, numpy = model.tokenizer, keras.ops.convert_to_numpy
    np.testing.assert_array_equal(results["encode/tokens"], numpy(tokenizer.encode(X)))
    np.testing.assert_allclose(results["reconstruct/x"], numpy(tokenizer.reconstruct(X)), atol=1e-5)
    np.testing.assert_allclose(results["decode/x"], numpy(tokenizer.decode(requests["decode/tokens"])), atol=1e-5)


def test_a_wrong_shape_is_an_error_that_says_so(served):
    message = str(served[2]["wrong"])
    assert "[1,4,4,1] is not compatible with expected shape [?,8,8,1]" in message


def test_the_folder_is_what_tf_serving_watches(exported):
    model, folder = exported
    assert [path.name for path in folder.iterdir()] == ["1"]  # what was beside it has gone
    version = folder / "1"
    assert {path.name for path in version.iterdir()} >= {"saved_model.pb", "variables", "assets.extra"}
    assert not (version / "stale").exists()  # replaced, not mixed
    size = sum(path.stat().st_size for path in (version / "variables").iterdir())
    weights = sum(int(np.prod(v.shape)) * 4 for v in model.variables)
    assert weights <= size < 1.1 * weights + 10_000  # once


# The warm-up requests


def fields(message):
    """(number, payload) of each length-delimited or varint field of a protocol buffer."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2, tag
            size = varint()
            yield tag >> 3, message[position : position + size]
            position += size
    assert position == len(message)


def only(message, *path):
    for number in path:
        (message,) = (payload for n, payload in fields(message) if n == number)
    return message


def parse_warm_up(record):
    """signature, {argument: (dtype number, shape)}, by the field numbers in `warm_up_request`."""
    request = only(record, 6, 1)
    signature = only(request, 1, 3).decode()
    inputs = {}
    for number, entry in fields(request):
        if number == 2:
            tensor = only(entry, 2)
            dims = [dict(fields(dim)).get(1, 0) for n, dim in fields(only(tensor, 2)) if n == 2]
            inputs[only(entry, 1).decode()] = (only(tensor, 1), dims)
    return signature, inputs


FLOAT, INT32 = 1, 3  # numbers of TensorFlow's DataType


def records(path):
    """The records of a TFRecord file: length (8), its checksum (4), data, its checksum (4)."""
    content, position = path.read_bytes(), 0
    while position < len(content):
        size = int.from_bytes(content[position : position + 8], "little")
        yield content[position + 12 : position + 12 + size]
        position += 16 + size


def test_there_is_one_warm_up_request_for_each_signature(exported):
    found = dict(map(parse_warm_up, records(exported[1] / "1" / "assets.extra" / "tf_serving_warmup_requests")))
    assert found == {
        "generate": {"seed": (INT32, [1, 2]), "labels": (INT32, [1])},
        "encode": {"x": (FLOAT, [1, 8, 8, 1])},
        "decode": {"tokens": (INT32, [1, 4, 4])},
        "reconstruct": {"x": (FLOAT, [1, 8, 8, 1])},
    }


def test_warm_up_requests_are_what_tf_serving_reads():
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    import tensorflow as tf

    value = np.arange(300, dtype="float32").reshape(3, 100)  # lengths above 127 take two bytes
    message = log.PredictionLog.FromString(warm_up_request("generate", {"x": value, "seed": SEEDS}))
    request = message.predict_log.request
    assert request.model_spec.signature_name == "generate"
    assert set(request.inputs) == {"x", "seed"}
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["x"]), value)
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["seed"]), SEEDS)
    assert message.SerializeToString()


# Other models, and failures


class Broken(Servable, keras.Model):
    """Cannot be traced, nor loaded in another process."""

    def serving_signatures(self):
        raise RuntimeError("no signatures today")


def test_a_failure_leaves_nothing_behind(tmp_path):
    version = tmp_path / "served" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_text("the one before")
    model = Broken()
    model.built = True
    with pytest.raises(RuntimeError, match=r"no signatures today|child process said(.|\n)*Error"):
        model.export(tmp_path / "served", verbose=False)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "served",
        "served/1",
        "served/1/saved_model.pb",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_tokenizer, lambda: VAE((8, 8, 1), filters=(8,), latent_dim=2, **SIZES)])
def test_a_bare_tokenizer_is_served_too(make, tmp_path, capsys):
    model = make()
    folder = model.export(tmp_path / "tokenizer", version=3)
    assert folder == tmp_path / "tokenizer" / "3" and (folder / "saved_model.pb").exists()
    assert "signatures encode, decode, reconstruct" in capsys.readouterr().out
    found = dict(map(parse_warm_up, records(folder / "assets.extra" / "tf_serving_warmup_requests")))
    kind = (INT32, [1, 4, 4]) if model.vocabulary else (FLOAT, [1, 4, 4, 2])
    assert found["decode"] == {"tokens": kind} and set(found) == {"encode", "decode", "reconstruct"}


def audio_tokenizer():
    sizes = dict(filters=2, strides=(2, 4), causal=True)
    quantizer = ResidualQuantizer([VectorQuantizer(16, 3, seed=i) for i in range(2)])
    coders = dict(encoder=SEANetEncoder(output_dim=3, **sizes), decoder=SEANetDecoder(output_dim=1, **sizes))
    return VQVAE((64, 1), causal=True, quantizer=quantizer, **coders)


def video_tokenizer():
    quantizer = GroupedQuantizer([LookupFreeQuantizer(3), FiniteScalarQuantizer((4, 3), 2), SimVQ(8, 2, code_dim=1)])
    return VQVAE(
        (5, 8, 8, 1), filters=(4, 6), strides=[(2, 2, 2), (2, 1, 1)], causal=True, quantizer=quantizer, **SIZES
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [audio_tokenizer, video_tokenizer])
def test_tokenizers_of_time_and_every_quantizer_are_served(make, tmp_path):
    model = make()
    check_served(model, np.random.default_rng(0).uniform(-0.5, 0.5, (3, *model.input_shape)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_classes, sampler, guidance",
    [(2, Heun(), ClassifierFreeGuidance(2.0, (0.2, 0.8))), (None, Ancestral(), None)],
    ids=["interval", "stochastic"],
)
def test_every_kind_of_sampling_is_served(num_classes, sampler, guidance, tmp_path):
    """Pixels; the second evaluation and the interval are branches of the graph, the noise of a step is drawn in it."""
    network = DiT((8, 8, 1), patch_size=4, hidden_dim=16, num_layers=1, num_heads=2, num_classes=num_classes)
    for i, variable in enumerate(network.trainable_variables):
        variable.assign(0.1 * keras.random.normal(variable.shape, seed=i))
    model = Generator(network, GaussianDiffusion(), None, sampler, num_steps=4, guidance=guidance)
    folder = model.export(tmp_path / "served", verbose=False)
    requests = {"seed": SEEDS} if num_classes is None else {"seed": SEEDS, "labels": LABELS}
    np.savez(tmp_path / "in.npz", **requests)
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "generate = tf.saved_model.load(sys.argv[1]).signatures['generate']\n"
        "x = generate(**{key: tf.constant(value) for key, value in np.load(sys.argv[2]).items()})['x']\n"
        "np.save(sys.argv[3], x.numpy())"
    )
    command = [sys.executable, "-c", code, folder, tmp_path / "in.npz", tmp_path / "out.npy"]
    subprocess.run(command, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(requests, verbose=0), atol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow exports in this process")
def test_the_child_process_finds_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    commands = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **kwargs: commands.append(kwargs["env"]) or subprocess.CompletedProcess(command, 1, "", "said"),
    )
    with pytest.raises(RuntimeError, match=r"nothing was written(.|\n)*said"):
        make_tokenizer().export(tmp_path / "served", verbose=False)
    root = commands[0]["PYTHONPATH"]
    assert os.path.isdir(os.path.join(root, "keras_mmai")) and commands[0]["KERAS_BACKEND"] == "tensorflow"
