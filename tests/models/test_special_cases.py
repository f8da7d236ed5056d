"""Published models are cases of the multimodal one. (DiT is in test_multimodal_dit.py, MDLM in test_multimodal.py.)"""

import keras
import numpy as np
import pytest
from keras import ops
from multimodal_models import SMALL, awake, tensors
from small_models import heavy, loss_of

from keras_mmai import Modality, MultimodalDiffusionTransformer, MultimodalDiT, MultimodalGenerator
from keras_mmai.diffusion import (
    DDIM,
    CosineMasking,
    GaussianDiffusion,
    MaskedDiffusion,
    MaskGIT,
    UniformTimes,
    VPLinear,
)
from keras_mmai.noise import normal, row_seeds, split, uniform
from keras_mmai.tokenizers import LabelTokenizer, PassThrough

numpy = ops.convert_to_numpy


# MaskGIT (Chang et al. 2022, arXiv:2202.04200): codes of an image, a class in adaLN, cosine masking, the surest first

CODES, GRID, ROWS = 8, (4, 4), 5
LABELS = np.array([0, 1, 2, 1, 0])


def maskgit():
    process = MaskedDiffusion(CODES, CosineMasking())
    mods = [Modality("image", PassThrough(GRID, CODES), process=process), Modality("y", LabelTokenizer(3), adaln=True)]
    return mods, awake(MultimodalDiT(mods, **SMALL))


def cross_entropies(logits, codes):
    """-log p of each code, (b, *GRID) float64."""
    logits = numpy(logits).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, codes[..., None].astype(int), -1)[..., 0]


@heavy
def test_maskgit_learns_the_cross_entropy_of_what_the_cosine_masks():
    """At each t it is the paper's equation 3, weighted as the bound of the likelihood asks."""
    mods, network = maskgit()
    model = MultimodalDiffusionTransformer(mods, network, {"all": (("y",), ("image",))}, partly_known=0.0, seed=0)
    random = np.random.RandomState(0)
    codes, u = random.randint(0, CODES, (ROWS, *GRID)).astype("int32"), random.rand(ROWS, *GRID).astype("float32")
    t = np.array([0.15, 0.3, 0.5, 0.7, 0.95], "float32")
    batch = {"image": codes, "y": LABELS[:, None].astype("int32"), "t": {"image": t}, "noise": {"image": u}}
    r = 1.0 - t
    masked = u < np.cos(np.pi / 2 * r)[:, None, None]
    x = np.where(masked, CODES, codes)
    logits = network({"image": x, "y": batch["y"]}, {"image": t})["image"]
    losses = (cross_entropies(logits, codes) * masked).mean((1, 2))
    weights = np.pi / 2 * np.sin(np.pi / 2 * r) / np.cos(np.pi / 2 * r)
    assert loss_of(model, batch) == pytest.approx(np.mean(weights * losses), rel=1e-5)


def maskgit_by_hand(network, seeds, steps, temperature, randomness):
    """Section 3.2: predict, sample, and mask anew what is the least sure, as many as the schedule says.

    Of masks alone the network says the same everywhere, so without any randomness the first choice would be a tie.
    """
    place = 0  # of the image among the modalities
    own = split(seeds, 2)[:, place]
    x = np.full((ROWS, *GRID), CODES, "int32")
    count = np.prod(GRID)
    for i in range(steps):
        t, r = 1 - i / steps, (i + 1) / steps
        logits = network({"image": x, "y": LABELS[:, None]}, {"image": np.full(ROWS, t, "float32")})["image"]
        p = np.exp(numpy(logits).astype("float64"))
        p /= p.sum(-1, keepdims=True)
        sharp = p ** (1 / temperature)
        sharp /= sharp.sum(-1, keepdims=True)
        u, v = np.moveaxis(numpy(uniform(own, (*GRID, 2), stream=i + 1)), -1, 0)
        v = v * np.float32(1 - 2.0**-24) + np.float32(2.0**-25)
        drawn = (np.cumsum(sharp, -1) <= u[..., None]).sum(-1)
        confidence = np.log(np.take_along_axis(p, drawn[..., None], -1)[..., 0]) - randomness * t * np.log(-np.log(v))
        for b in range(ROWS):
            masked = x[b] == CODES
            ratio = np.cos(np.pi / 2 * r) / np.cos(np.pi / 2 * (i / steps))
            # the paper rounds up; here chance rounds, so that the share is that of the schedule on average
            fewer = int(np.floor(masked.sum() * (1 - ratio) + v[b].sum(dtype="float64") % 1))
            left = masked.sum() - fewer
            assert abs(left - np.ceil(np.cos(np.pi / 2 * r) * count)) < 2
            sure = np.where(masked, confidence[b], np.inf).ravel()
            remasked = np.zeros(count, bool)
            remasked[np.argsort(sure)[:left]] = True
            x[b] = np.where(remasked.reshape(GRID), CODES, np.where(masked, drawn[b], x[b]))
    return x


@pytest.mark.parametrize(
    "sampler", [MaskGIT(), MaskGIT(temperature=0.5, randomness=1.0), MaskGIT(temperature=0.1, randomness=0.1)], ids=repr
)
def test_maskgit_generates_by_confidence(sampler):
    mods, network = maskgit()
    generator = MultimodalGenerator(network, mods, samplers={"image": sampler})
    for steps in (1, 6):
        found = generator.generate({"y": LABELS}, want=["image"], steps=steps, seed=7)["image"]
        by_hand = maskgit_by_hand(network, row_seeds(7, ROWS), steps, sampler.temperature, sampler.randomness)
        assert by_hand.max() < CODES
        np.testing.assert_array_equal(found, by_hand)


# Latte (Ma et al. 2024, arXiv:2401.03048): latents of a video, a class in adaLN, attention in space and time in turn

FRAMES = 3


def latte():
    mods = [
        Modality("video", PassThrough((FRAMES, 4, 4, 1)), patch_size=(1, 2, 2)),
        Modality("motion", LabelTokenizer(["down", "up", "right", "left"]), adaln=True),
    ]
    network = MultimodalDiT(mods, hidden_dim=32, num_layers=4, num_heads=2, attention="factorized")
    tasks = {"motion_to_video": (("motion",), ("video",))}
    return MultimodalDiffusionTransformer(mods, network, tasks, partly_known=0.0, ema_decays=(), seed=0)


def moving_bars():
    """One video of each motion, (4, FRAMES, 4, 4, 1): a bright bar on dark ground."""
    down = np.stack([np.where(np.arange(4) == i, 1.0, -1.0)[:, None] * np.ones(4) for i in range(FRAMES)])
    videos = np.stack([down, down[:, ::-1], down.swapaxes(1, 2), down[:, ::-1].swapaxes(1, 2)])
    return videos[..., None].astype("float32"), ["down", "up", "right", "left"]


@pytest.mark.slow
def test_latte_learns_videos_and_is_saved_and_served(tmp_path):
    model, (videos, motions) = latte(), moving_bars()
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-2, 200)))
    rows = {"video": np.repeat(videos, 8, axis=0), "motion": list(np.repeat(motions, 8))}
    random = np.random.RandomState(0)
    fixed = {
        **model.precompute(rows),
        "t": {"video": random.uniform(0.1, 0.9, 32).astype("float32")},
        "noise": {"video": random.normal(size=(32, FRAMES, 4, 4, 1)).astype("float32")},
    }
    before = loss_of(model, fixed)
    model.fit(rows, batch_size=32, epochs=200, verbose=0)
    after = loss_of(model, fixed)
    assert before > 1.0 and after < before / 4
    generator = model.generator(num_steps=20)
    out = generator.generate({"motion": motions}, want=["video"], seed=1)["video"]
    assert out.shape == videos.shape and out.dtype == "float32"
    distances = np.square(out[:, None] - videos).mean(axis=(2, 3, 4, 5))  # of each that is made to each real one
    assert distances.argmin(1).tolist() == [0, 1, 2, 3] and distances.diagonal().max() < 0.1
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").generator(num_steps=20)
    np.testing.assert_allclose(again.generate({"motion": motions}, ["video"], seed=1)["video"], out, atol=1e-5)

    path = generator.export(tmp_path / "served", verbose=False)
    import tensorflow as tf

    served = tf.saved_model.load(str(path)).signatures["motion_to_video"]
    video = served(seed=tf.constant(numpy(row_seeds(1, 4))), motion=tf.range(4))["video"].numpy()
    np.testing.assert_allclose(video, out, atol=1e-3)


# UniDiffuser (Bao et al. 2023, arXiv:2303.06555): two latents, each with a noise level of its own, noise prediction

IMAGE, TEXT = (4, 4, 2), (3, 4)


def unidiffuser():
    process = GaussianDiffusion(VPLinear(), "noise", times=UniformTimes())
    mods = [  # weights of means, which make them sums
        Modality("image", PassThrough(IMAGE), process=process, patch_size=2, weight=np.prod(IMAGE)),
        Modality("text", PassThrough(TEXT), process=process, weight=np.prod(TEXT)),
    ]
    network = awake(MultimodalDiT(mods, **SMALL))
    plain = dict(independent_times=1.0, partly_known=0.0, ema_decays=(), seed=0)
    return MultimodalDiffusionTransformer(mods, network, {"joint": ((), ("image", "text"))}, **plain)


def levels(t):
    """Square roots of alpha_bar and 1 - alpha_bar of the linear chain of 1,000 steps, float64, at its knots."""
    alpha_bar = np.append(1.0, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    alpha_bar = alpha_bar[np.rint(np.asarray(t, "float64") * 1000).astype(int)]
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


@heavy
def test_unidiffuser_learns_both_noises_at_once():
    """The squared norm of equation 6: of the noise of both, each at its own level."""
    model, random = unidiffuser(), np.random.RandomState(0)
    x, y = (random.normal(size=(ROWS, *shape)).astype("float32") for shape in (IMAGE, TEXT))
    e, f = (random.normal(size=(ROWS, *shape)).astype("float32") for shape in (IMAGE, TEXT))
    t, u = np.array([0.1, 0.3, 0.5, 0.7, 0.9], "float32"), np.array([0.8, 0.2, 0.6, 0.1, 0.4], "float32")
    noisy = {}
    for name, data, time, noise in (("image", x, t, e), ("text", y, u, f)):
        alpha, sigma = (a.reshape(-1, *[1] * (data.ndim - 1)) for a in levels(time))
        noisy[name] = (alpha * data + sigma * noise).astype("float32")
    outputs = model.network(tensors(noisy), {"image": t, "text": u})
    joined = [np.concatenate([numpy(a).reshape(ROWS, -1) for a in pair], 1) for pair in (outputs.values(), (e, f))]
    expected = np.mean(np.square(joined[0] - joined[1]).sum(1))
    batch = {"image": x, "text": y, "t": {"image": t, "text": u}, "noise": {"image": e, "text": f}}
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-4)
    swapped = {**batch, "t": {"image": u, "text": t}}
    assert loss_of(model, swapped) != pytest.approx(expected, rel=1e-2)


@heavy
def test_unidiffuser_draws_a_time_for_each():
    model = unidiffuser()
    out = model(tensors({"image": np.zeros((64, *IMAGE), "float32"), "text": np.zeros((64, *TEXT), "float32")}))
    t, u = (numpy(out[name]["t"]) for name in ("image", "text"))
    assert abs(np.corrcoef(t, u)[0, 1]) < 0.4 and t.std() > 0.2 and u.std() > 0.2


def ddim(predict, noise, steps):
    """Song et al. 2020, equation 12 at sigma = 0, float64: `predict` (x, t) -> noise."""
    x = noise.astype("float64") * levels(1.0)[1]
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(t), levels(s)
        eps = numpy(predict(x.astype("float32"), np.full(ROWS, t, "float32"))).astype("float64")
        x = alpha_s * (x - sigma_t * eps) / alpha_t + sigma_s * eps
    return x


@heavy
def test_unidiffuser_fills_in_by_the_time_of_what_is_given():
    """Conditional: what is given has noise level 0. Marginal: the other is absent. Joint: both have one level."""
    model, steps = unidiffuser(), 4
    with pytest.raises(ValueError, match="`given`: no task has 'image' given"):
        model.generator().generate({"image": np.zeros((1, *IMAGE), "float32")})
    sampler = {"image": DDIM(), "text": DDIM()}
    generator = MultimodalGenerator(model.network, model.modalities, samplers=sampler, num_steps=steps)
    network, image = model.network, np.random.RandomState(1).normal(size=(ROWS, *IMAGE)).astype("float32")
    own = split(row_seeds(3, ROWS), 2)
    noise = {"image": numpy(normal(own[:, 0], IMAGE)), "text": numpy(normal(own[:, 1], TEXT))}
    zero = np.zeros(ROWS, "float32")

    def conditional(x, t):
        return network({"image": image, "text": x}, {"image": zero, "text": t})["text"]

    def marginal(x, t):
        return network({"text": x}, {"text": t})["text"]

    found = generator.generate({"image": image}, seed=3)["text"]
    np.testing.assert_allclose(found, ddim(conditional, noise["text"], steps), rtol=1e-3, atol=1e-3)
    alone = generator.generate(want=["text"], num_samples=ROWS, seed=3)["text"]
    np.testing.assert_allclose(alone, ddim(marginal, noise["text"], steps), rtol=1e-3, atol=1e-3)
    assert np.abs(alone - found).max() > 0.1

    def joint(x, t):
        parts = {"image": x[:, :32].reshape(-1, *IMAGE), "text": x[:, 32:].reshape(-1, *TEXT)}
        outputs = network(parts, {"image": t, "text": t})
        return np.concatenate([numpy(outputs[name]).reshape(ROWS, -1) for name in ("image", "text")], 1)

    both = generator.generate(num_samples=ROWS, seed=3)
    start = np.concatenate([noise[name].reshape(ROWS, -1) for name in ("image", "text")], 1)
    by_hand = ddim(joint, start, steps)
    found = np.concatenate([both[name].reshape(ROWS, -1) for name in ("image", "text")], 1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-3)
