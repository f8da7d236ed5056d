"""Tokenizers of signals in time: causality, the first frame, streaming, sample rates."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai import VAE, VQVAE
from keras_mmai.layers import (
    ConvDecoder,
    ConvEncoder,
    Framewise,
    ResidualQuantizer,
    SEANetDecoder,
    SEANetEncoder,
    VectorQuantizer,
)
from keras_mmai.tokenizers import SpectralLoss, Stream

SIZES = dict(filters=(4, 6), num_residual_layers=1, residual_filters=4)


def residual():
    return ResidualQuantizer([VectorQuantizer(16, 3, seed=i) for i in range(2)])


def seanet(cls=VQVAE, causal=True, sizes=None, **kwargs):
    """An audio tokenizer of 64 samples in tokens of 8."""
    arguments = dict(filters=2, causal=causal, **(sizes or dict(strides=(2, 4))))
    out = {"quantizer": residual()} if cls is VQVAE else {"latent_dim": 3}
    encoder = SEANetEncoder(output_dim=3 if cls is VQVAE else 6, **arguments)
    return cls(
        (64, 1), causal=causal, encoder=encoder, decoder=SEANetDecoder(output_dim=1, **arguments), **out, **kwargs
    )


def video(cls=VQVAE, frames=9, **kwargs):
    """A causal video tokenizer: 4 frames and 4x4 pixels in a token, and the first frame by itself."""
    out = {"quantizer": VectorQuantizer(16, 3)} if cls is VQVAE else {"latent_dim": 3}
    return cls((frames, 8, 8, 1), strides=[(2, 2, 2), (2, 2, 2)], causal=True, **out, **SIZES, **kwargs)


def frames(encoder=None, decoder=None):
    """A tokenizer of each frame of a video by itself."""
    encoder, decoder = encoder or ConvEncoder(output_dim=6, **SIZES), decoder or ConvDecoder(output_dim=1, **SIZES)
    return VAE((6, 8, 8, 1), latent_dim=3, causal=True, encoder=Framewise(encoder), decoder=Framewise(decoder))


MODELS = {
    "audio": lambda: seanet(),
    "audio patches": lambda: seanet(sizes=dict(strides=(2,), patch_size=4)),
    "audio spectra": lambda: seanet(sizes=dict(strides=(4,), patch_size=2, fourier=True)),
    "audio vae": lambda: seanet(VAE),
    "audio convolutions": lambda: VQVAE((64, 1), strides=(2, 4), causal=True, quantizer=residual(), **SIZES),
    "video": lambda: video(),
    "video vae": lambda: video(VAE),
    "video without a first frame": lambda: video(frames=8),
    "frames": lambda: frames(),
}


def signals(shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.3, 0.3, size=(2, *shape)).astype("float32")


def numbers(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in ("audio", "video"))) for name in MODELS]
)
def model(request):
    return MODELS[request.param]()


def test_shapes(model):
    x = signals(model.input_shape)
    for kind in model.tokens:
        tokens = model.encode(x, tokens=kind)
        assert tuple(tokens.shape[1:]) == (model.token_shape if kind == "codes" else model.latent_shape)
        assert tuple(model.decode(tokens).shape) == x.shape
    assert model.latent_shape[0] == {64: 8, 9: 3, 8: 2, 6: 6}[model.input_shape[0]]


def test_the_future_changes_nothing_before_it(model):
    """Bit for bit, in latents and in what is decoded."""
    x = signals(model.input_shape)
    stride = model.encoder.factors(len(x.shape) - 2)[0]
    for token in range(1, model.latent_shape[0]):
        first = token * stride - model.lead  # the first frame of this token
        changed = x.copy()
        changed[:, first:] = signals(model.input_shape, seed=1)[:, first:]
        before, after = (numbers(model.encode(v, tokens="latents")) for v in (x, changed))
        np.testing.assert_array_equal(after[:, :token], before[:, :token])
        assert (after[:, token] != before[:, token]).any()
        one, two = (
            numbers(model.decoded(v)) for v in (before, np.concatenate([before[:, :token], after[:, token:] + 1], 1))
        )
        np.testing.assert_array_equal(two[:, :first], one[:, :first])
        assert (two[:, first:] != one[:, first:]).any()


def test_one_frame_alone_is_an_image():
    whole, image = video(frames=9), video(frames=1)
    image.set_weights(whole.get_weights())
    x = signals((9, 8, 8, 1))
    assert image.latent_shape == (1, 2, 2, 3) and whole.latent_shape == (3, 2, 2, 3)
    for kind in whole.tokens:
        tokens = numbers(whole.encode(x, tokens=kind))
        np.testing.assert_allclose(numbers(image.encode(x[:, :1], tokens=kind)), tokens[:, :1], atol=1e-6)
        np.testing.assert_allclose(
            numbers(image.decode(tokens[:, :1])), numbers(whole.decode(tokens))[:, :1], atol=1e-6
        )


@pytest.mark.parametrize(
    "chunks", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_chunks_equal_the_whole(model, chunks):
    """Chunks of 1, 2 or 3 tokens: shorter than what the convolutions reach back to."""
    x = signals(model.input_shape)
    stride = model.encoder.factors(len(x.shape) - 2)[0]
    for kind in model.tokens:
        stream, start, tokens, decoded = Stream(model, kind), 0, [], []
        while start < x.shape[1]:
            stop = start + chunks * stride - (model.lead if start == 0 else 0)
            tokens.append(numbers(stream.encode(x[:, start:stop])))
            decoded.append(numbers(stream.decode(tokens[-1])))
            assert decoded[-1].shape[1] == x[:, start:stop].shape[1]
            start = stop
        whole = numbers(model.encode(x, tokens=kind))
        np.testing.assert_allclose(np.concatenate(tokens, 1), whole, atol=1e-5)
        np.testing.assert_allclose(np.concatenate(decoded, 1), numbers(model.decode(whole)), atol=1e-5)


def test_frames_are_those_of_the_images_tokenizer(tmp_path):
    images = VAE((8, 8, 1), latent_dim=3, **SIZES)
    x = signals((6, 8, 8, 1))
    images(x[0], training=True)  # statistics of the latents
    model = frames(images.encoder, images.decoder)
    model.standardize.set_weights(images.standardize.get_weights())
    model.save(tmp_path / "frames.keras")
    for tokenizer in (model, keras.models.load_model(tmp_path / "frames.keras")):
        tokens = tokenizer.encode(x)
        np.testing.assert_allclose(numbers(tokens)[1], numbers(images.encode(x[1])), atol=1e-5)
        np.testing.assert_allclose(numbers(tokenizer.decode(tokens))[1], numbers(images.reconstruct(x[1])), atol=1e-5)


def test_frames_have_no_time():
    with pytest.raises(ValueError, match="give it `causal=False`"):
        Framewise(ConvEncoder(output_dim=6, causal=True, **SIZES))


def test_without_causality_the_future_is_seen():
    model = seanet(causal=False)
    x = signals(model.input_shape)
    changed = x.copy()
    changed[:, 32:] = 0.0
    before, after = (numbers(model.encode(v, tokens="latents")) for v in (x, changed))
    assert (before[:, :4] != after[:, :4]).any()
    with pytest.raises(ValueError, match="Only a causal tokenizer"):
        Stream(model)


def test_a_chunk_that_does_not_fill_a_token():
    with pytest.raises(ValueError, match=r"n a multiple of 8. Received: \(2, 12, 1\)"):
        Stream(seanet()).encode(np.zeros((2, 12, 1), "float32"))
    with pytest.raises(ValueError, match=r"n a multiple of 4 and one more, since it is the first"):
        Stream(video()).encode(np.zeros((2, 4, 8, 8, 1), "float32"))
    with pytest.raises(ValueError, match="gives tokens of the kinds"):
        Stream(seanet(), "words")


def test_a_stream_checks_values():
    stream = Stream(seanet())
    for wrong, message in ((2.0, r"must lie in \[-1, 1\]"), (np.nan, "must be finite")):
        with pytest.raises(ValueError, match=message):
            stream.encode(np.full((1, 8, 1), wrong, "float32"))
    tokens = numbers(stream.encode(np.zeros((1, 8, 1), "float32"))) + 100
    with pytest.raises(ValueError, match=r"has codes in .*Received: 1\d\d at index \(0, 0"):
        stream.decode(tokens)
    with pytest.raises(ValueError, match=r"Tokens have shape \('b', 'n'.*Received: \(1, 1, 7\)"):
        stream.decode(np.zeros((1, 1, 7), "int32"))
    with pytest.raises(ValueError, match=r"of 1 signals. Received: a chunk of 2"):
        stream.encode(np.zeros((2, 8, 1), "float32"))


@pytest.mark.slow
def test_an_audio_tokenizer_is_trained_saved_and_loaded(tmp_path):
    model = seanet(perceptual_loss=SpectralLoss(8000, (16, 32), (4, 6)), sample_rate=8000)
    time = np.arange(64) / 8000
    x = np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in np.linspace(300, 900, 32)])[..., None].astype("float32")
    model.compile(keras.optimizers.Adam(3e-3))
    logs = model.fit(x, batch_size=8, epochs=6, verbose=0).history
    for name in ("reconstruction", "stft", "mel", "commitment"):
        assert np.isfinite(logs[name]).all()
    assert logs["mel"][-1] < 0.8 * logs["mel"][0] and logs["loss"][-1] < logs["loss"][0]
    assert model.bits == 8 * 2 * 4 and model.bits_per_second == 8000
    model.save(tmp_path / "audio.keras")
    loaded = keras.saving.load_model(tmp_path / "audio.keras")
    np.testing.assert_array_equal(numbers(loaded.encode(x)), numbers(model.encode(x)))
    np.testing.assert_array_equal(numbers(loaded.reconstruct(x)), numbers(model.reconstruct(x)))
    assert loaded.perceptual_loss == model.perceptual_loss and loaded.sample_rate == 8000


def test_sample_rates():
    model = seanet(sample_rate=8000)
    x = signals((64, 1))
    np.testing.assert_array_equal(numbers(model.encode(x, sample_rate=8000)), numbers(model.encode(x)))
    with pytest.raises(ValueError, match=r"at sample_rate=8000. Received: sample_rate=16000. Resample"):
        model.encode(x, sample_rate=16000)
    with pytest.raises(ValueError, match=r"at sample_rate=None. .*Build it with its `sample_rate`"):
        seanet().encode(x, sample_rate=8000)
    with pytest.raises(ValueError, match=r"for signals at 8000 Hz: .*Received: sample_rate=None"):
        seanet(perceptual_loss=SpectralLoss(8000))
    with pytest.raises(ValueError, match=r"Give the tokenizer its `sample_rate`"):
        _ = seanet().bits_per_second


def test_an_encoder_that_does_not_fit():
    encoder, decoder = SEANetEncoder(2, 3, (2, 4)), SEANetDecoder(2, 1, (2, 4))
    with pytest.raises(ValueError, match="`encoder` must have output_dim=4 and causal=False"):
        VQVAE((64, 1), encoder=encoder, decoder=decoder, quantizer=VectorQuantizer(8, 4))
    with pytest.raises(ValueError, match="`decoder` must have output_dim=1 and causal=True"):
        seanet_causal = SEANetEncoder(2, 3, (2, 4), causal=True)
        VQVAE((64, 1), causal=True, encoder=seanet_causal, decoder=decoder, quantizer=VectorQuantizer(8, 3))
    with pytest.raises(ValueError, match=r"must undo the strides of `encoder`, \(8,\). Received: \(16,\)"):
        VQVAE((64, 1), encoder=encoder, decoder=SEANetDecoder(2, 1, (4, 4)), quantizer=VectorQuantizer(8, 3))
    with pytest.raises(ValueError, match=r"multiple of 8, the product of the strides. Received: \(4, 1\)"):
        VQVAE((4, 1), encoder=encoder, decoder=decoder, quantizer=VectorQuantizer(8, 3))
    with pytest.raises(ValueError, match=r"multiple of 4, .* \(or one more in time\). Received: \(10, 8, 8, 1\)"):
        video(frames=10)
    with pytest.raises(ValueError, match="`strides` has an entry for each of `filters`"):
        VQVAE((64, 1), filters=(4, 8), strides=(2, 2, 2))
    with pytest.raises(ValueError, match=r"one for each of the 1 axes of the signal. Received: \(2, 2\)"):
        VQVAE((64, 1), filters=(4,), strides=[(2, 2)])


def test_the_weight_of_the_kl_term_rises():
    model = seanet(VAE, kl_weight=0.1, kl_warmup=4)
    x = signals(model.input_shape)
    ratios = []
    for _ in range(6):
        outputs = model(x, training=True)
        loss = numbers(model.named_losses(x, outputs)["kl"])
        ratios.append(float(loss.mean() / numbers(outputs["kl"]).mean()))
    np.testing.assert_allclose(ratios, [0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rtol=1e-5)


def test_spectral_loss():
    loss = SpectralLoss(8000, (64, 128), (8, 16), floor=1e-5)
    x = signals((512, 2))
    same = loss(ops.convert_to_tensor(x), ops.convert_to_tensor(x))
    assert all(tuple(v.shape) == (2,) and np.abs(numbers(v)).max() < 1e-5 for v in same.values())
    # half as loud: the relative distance is 1/2, and logarithms of magnitudes differ by log 2
    half = loss(ops.convert_to_tensor(x), ops.convert_to_tensor(x / 2))
    np.testing.assert_allclose(numbers(half["stft"]), 0.5 + np.log(2), rtol=1e-2)
    np.testing.assert_allclose(numbers(half["mel"]), np.log10(2), rtol=1e-2)
    other = loss(ops.convert_to_tensor(x), ops.convert_to_tensor(signals((512, 2), seed=3)))
    assert (numbers(other["mel"]) > 0.05).all()
    with pytest.raises(ValueError, match="`num_mels` has an entry for each"):
        SpectralLoss(8000, (64,), (8, 16))
    with pytest.raises(ValueError, match=r"`floor` must be above 0\. Received: floor=0"):
        SpectralLoss(8000, floor=0)
    with pytest.raises(ValueError, match="bands are so narrow"):
        SpectralLoss(24000, (128,), (32,))
    for shape in ((1, 512, 1), (1, 32, 32, 1)):
        with pytest.raises(ValueError, match=r"\(b, samples, c\) with at least 513 samples. Received: \(1, "):
            SpectralLoss(8000)(ops.zeros(shape), ops.zeros(shape))


def test_a_perceptual_loss_is_anything_with_names():
    class Edges:
        names = ("edges",)

        def __call__(self, x, y):
            return {"edges": ops.mean(ops.abs(ops.diff(x - y, axis=1)), axis=(1, 2))}

    model = seanet(perceptual_loss=Edges())
    x = signals(model.input_shape)
    assert tuple(model.named_losses(x, model(x))["edges"].shape) == (len(x),)


def test_what_is_below_the_floor_is_silence():
    silence, hiss, tone = (
        np.zeros((1, 512, 1)),
        1e-5 * signals((512, 1))[:1],
        0.1 * np.sin(np.arange(512))[None, :, None],
    )
    silence, hiss, tone = (ops.convert_to_tensor(x, "float32") for x in (silence, hiss, tone))
    loss = SpectralLoss(8000, (64, 128), (8, 16), floor=1e-3)
    assert all(float(v[0]) < 1e-3 for v in loss(silence, hiss).values())
    assert all(float(v[0]) > 0.03 for v in loss(silence, tone).values())


def test_the_spectral_loss_of_silence_has_a_gradient(gradients):
    loss = SpectralLoss(8000, (64,), (8,))
    _, (found,) = gradients(
        lambda y: ops.sum(sum(loss(ops.zeros((1, 256, 1)), y).values())), [np.zeros((1, 256, 1), "float32")]
    )
    assert np.isfinite(found).all()
