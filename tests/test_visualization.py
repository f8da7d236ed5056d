import io

import keras
import matplotlib.image
import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from keras_mmai import Modality, visualization
from keras_mmai.tokenizers import PassThrough
from keras_mmai.visualization.figures import INVALID, PALETTE

GREY = np.random.default_rng(0).uniform(-1.5, 1.5, size=(5, 8, 8, 1)).astype("float32")
RGB = np.random.default_rng(1).uniform(-1.0, 1.0, size=(5, 8, 6, 3))
VIDEOS = np.random.default_rng(2).uniform(-1.0, 1.0, size=(3, 4, 8, 6, 1))
SINE = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)[None, :, None]  # half a second of 1 kHz
HISTORY = {"loss": [2.0, 1.0, 0.5], "val_loss": [2.1, 1.2, 0.9], "gradient_norm": [3.0, 2.0, 1.0]}


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def canvas_of(figure):
    return figure.axes[0].images[0].get_array()


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: visualization.image_grid(GREY, num_columns=3, labels=range(5), title="five", path=path),
        lambda path: visualization.image_grid(RGB, path=path),
        lambda path: visualization.reconstructions(RGB, 0.5 * RGB, path=path),
        lambda path: visualization.denoising_strip(np.stack([RGB, RGB]), [1.0, 0.0], list("abcde"), path=path),
        lambda path: visualization.filmstrip(VIDEOS, labels="abc", title="four frames", path=path),
        lambda path: visualization.spectrograms(np.concatenate([SINE] * 3), 8000, titles="abc", path=path),
        lambda path: visualization.loss_curves(HISTORY, path=path),
        lambda path: visualization.loss_curves({"one": HISTORY, "two": {"loss": [1.0]}}, path=path),
        lambda path: visualization.codebook_usage(np.arange(16), path=path),
    ],
)
def test_returns_a_figure_and_saves_the_same_png(draw, tmp_path):
    path = tmp_path / "folder" / "picture.png"
    figure = draw(path)
    assert isinstance(figure, Figure)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    memory = io.BytesIO()
    draw(None).savefig(memory, format="png")
    memory.seek(0)
    np.testing.assert_array_equal(matplotlib.image.imread(path), matplotlib.image.imread(memory))


def test_the_saved_png_shows_the_pixels_of_the_images(tmp_path):
    image = np.array([[-1.0, 1.0], [0.0, 3.0]])[None, :, :, None]
    visualization.image_grid(image, path=tmp_path / "a.png")
    shown = np.rint(255 * matplotlib.image.imread(tmp_path / "a.png")[..., :3])
    tile = shown[12:-12, 12:-12]  # inside the margins
    assert tile.shape == (84, 84, 3)
    np.testing.assert_array_equal(tile[21::42, 21::42, 0], [[0, 255], [128, 255]])


def test_labels_and_rows_are_where_they_belong():
    figure = visualization.image_grid(GREY, num_columns=2, labels=[3, 1, 4, 1, 5], title="title")
    assert texts(figure) == ["3", "1", "4", "1", "5", "title"]
    assert texts(visualization.reconstructions(GREY, GREY)) == ["original", "reconstruction"]
    strip = visualization.denoising_strip(np.stack([GREY] * 3)[:, :2], [1.0, 0.5, 0.0], ["a", "b"])
    assert texts(strip) == ["t = 1.00", "0.50", "0.00", "a", "b"]


def test_strip_has_a_row_for_each_sample_and_a_column_for_each_time():
    trajectory = np.linspace(-1.0, 1.0, 6).reshape(3, 2, 1, 1, 1)  # each image is one pixel
    canvas = canvas_of(visualization.denoising_strip(trajectory))
    centers = canvas[12 + 42 :: 88, 12 + 42 :: 88, 0][:2, :3]
    np.testing.assert_array_equal(centers, np.rint(np.linspace(0, 255, 6)).reshape(3, 2).T)


def test_filmstrip_has_a_row_for_each_video_and_a_column_for_each_frame():
    videos = np.linspace(-1.0, 1.0, 6).reshape(2, 3, 1, 1, 1)  # each frame is one pixel
    figure = visualization.filmstrip(videos)
    centers = canvas_of(figure)[12 + 42 :: 88, 12 + 42 :: 88, 0][:2, :3]
    np.testing.assert_array_equal(centers, np.rint(np.linspace(0, 255, 6)).reshape(2, 3))
    assert texts(visualization.filmstrip(videos, labels=["a", 7])) == ["a", "7"]


def test_gif_plays_the_frames_of_all_videos_in_their_order(tmp_path):
    path = tmp_path / "folder" / "videos.gif"
    visualization.save_gif(VIDEOS, path, num_columns=2, frames_per_second=5)
    assert [file.name for file in path.parent.iterdir()] == ["videos.gif"]
    with PIL.Image.open(path) as gif:
        assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", 4, 0)
        for frame in range(4):
            gif.seek(frame)
            assert gif.info["duration"] == 200
            shown = np.asarray(gif.convert("RGB"))
            expected = canvas_of(visualization.image_grid(VIDEOS[:, frame], num_columns=2))
            np.testing.assert_array_equal(shown, expected)


def test_gif_of_colours_is_near_them(tmp_path):
    ramp = np.linspace(-1.0, 1.0, 8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp, ramp[::-1]), axis=-1)  # (8, 8, 3)
    visualization.save_gif(np.stack([image, -image])[None], tmp_path / "a.gif")
    with PIL.Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 2
        shown = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(shown - canvas_of(visualization.image_grid(image[None]))).max() <= 16


def test_a_failed_gif_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.animation.PillowWriter.finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        visualization.save_gif(VIDEOS, tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_spectrogram_shows_a_sine_at_its_frequency_and_loudness():
    silence = np.zeros_like(SINE)
    figure = visualization.spectrograms(np.concatenate([SINE, 0.1 * SINE, silence]), 8000, titles=[1, 2, 3])
    panels = figure.axes[:3]
    assert [panel.get_title(loc="left") for panel in panels] == ["1", "2", "3"]
    loud, quiet, none = (panel.images[0].get_array()[:, 8:-8] for panel in panels)  # without the ends
    left, right, bottom, top = panels[0].images[0].get_extent()
    assert (left, right, bottom, top) == (0.0, 0.5, 0.0, 4.0)
    bins = loud.shape[0]
    assert (loud.argmax(axis=0) == (bins - 1) * 1000 / 4000).all()
    np.testing.assert_allclose(loud.max(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(quiet.max(axis=0), -20.0, atol=1e-6)
    assert (none == -80.0).all() and panels[0].images[0].get_clim() == (-80.0, 0.0)


def test_spectrogram_paints_what_is_not_a_number():
    broken = SINE.copy()
    broken[0, 2000], broken[0, 3000] = np.nan, np.inf
    mask = np.ma.getmaskarray(visualization.spectrograms(broken, 8000).axes[0].images[0].get_array())
    assert mask.any() and not mask.all()


def test_nan_is_painted_and_not_raised():
    image = np.full((1, 2, 2, 1), np.nan)
    assert (canvas_of(visualization.image_grid(image))[50, 50] == INVALID).all()


def test_takes_tensors_of_the_backend():
    visualization.image_grid(keras.ops.convert_to_tensor(GREY))
    visualization.filmstrip(keras.ops.convert_to_tensor(VIDEOS.astype("float32")))
    visualization.spectrograms(keras.ops.convert_to_tensor(SINE.astype("float32")), 8000)


def test_loss_curves_has_a_panel_for_each_quantity_and_dashes_for_validation():
    figure = visualization.loss_curves({"one": HISTORY, "two": HISTORY})
    loss, norm = figure.axes
    assert (loss.get_title(loc="left"), norm.get_title(loc="left")) == ("loss", "gradient norm")
    drawn = [(line.get_linestyle(), line.get_color()) for line in loss.lines if len(line.get_ydata())]
    first, second = PALETTE[:2]
    assert drawn == [("-", first), ("--", first), ("-", second), ("--", second)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["one", "two", "training", "validation"]


def test_loss_curves_takes_what_fit_returns():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    x = np.ones((8, 2), "float32")
    history = model.fit(x, x[:, :1], validation_data=(x, x[:, :1]), epochs=2, batch_size=4, verbose=0).history
    assert len(visualization.loss_curves(history).axes) == 1


def test_loss_curves_uses_a_logarithmic_axis_only_for_wide_ranges():
    wide, narrow = visualization.loss_curves({"a": [100.0, 0.1], "b": [2.0, float("nan")]}).axes
    assert (wide.get_yscale(), narrow.get_yscale()) == ("log", "linear")


def test_codebook_usage_states_codes_in_use_and_perplexity():
    title = visualization.codebook_usage([5, 0, 5, 0, 5, 5]).axes[0].get_title(loc="left")
    assert title == "4 of 6 codes in use · perplexity 4.0"


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: visualization.image_grid(GREY[0]), r"must be \(n, h, w, c\).*\(8, 8, 1\)"),
        (lambda: visualization.image_grid(np.zeros((2, 8, 8, 4))), "1 .grey. or 3 .RGB."),
        (lambda: visualization.image_grid(GREY[:0]), "empty"),
        (lambda: visualization.image_grid(GREY.astype("uint8")), "images / 127.5 - 1"),
        (lambda: visualization.image_grid(GREY, labels=[1]), "one for each image"),
        (lambda: visualization.image_grid(GREY, num_columns=0), "num_columns"),
        (lambda: visualization.image_grid(GREY, path="a.pdf"), "end in .png"),
        (lambda: visualization.reconstructions(GREY, GREY[:2]), "one reconstruction for each"),
        (lambda: visualization.denoising_strip(GREY), r"\(steps, n, h, w, c\)"),
        (lambda: visualization.denoising_strip(GREY[None], times=[1.0, 0.0]), "1 steps"),
        (lambda: visualization.denoising_strip(GREY[None], labels=["a"]), "5 samples"),
        (lambda: visualization.filmstrip(GREY), r"\(n, frames, h, w, c\)"),
        (lambda: visualization.filmstrip(VIDEOS, labels=["a"]), "3 videos"),
        (lambda: visualization.save_gif(GREY, "a.gif"), r"\(n, frames, h, w, c\)"),
        (lambda: visualization.save_gif(VIDEOS, "a.png"), "end in .gif"),
        (lambda: visualization.save_gif(VIDEOS, "a.gif", frames_per_second=100), "frames_per_second=100"),
        (lambda: visualization.save_gif(VIDEOS, "a.gif", num_columns=0), "num_columns"),
        (lambda: visualization.spectrograms(SINE[0], 8000), r"\(n, samples, 1\)"),
        (lambda: visualization.spectrograms(SINE.astype("int16"), 8000), "int16"),
        (lambda: visualization.spectrograms(SINE, 0), "sample_rate=0"),
        (lambda: visualization.spectrograms(SINE, 8000, titles=["a", "b"]), "1 waveforms"),
        (lambda: visualization.loss_curves({}), "at least one epoch"),
        (lambda: visualization.loss_curves({"loss": 3.0}), "value of each epoch"),
        (lambda: visualization.codebook_usage(np.zeros(4)), "not all zero"),
        (lambda: visualization.codebook_usage(np.ones((4, 2))), "bincount"),
    ],
)
def test_errors_teach(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_signal_table_draws_every_kind(tmp_path):
    image, wave = np.zeros((4, 4, 1), "float32"), np.sin(np.arange(800.0))[:, None].astype("float32")
    video = np.stack([np.full((4, 4, 3), value, "float32") for value in (-1.0, 1.0, -1.0)])
    rows = [[image, wave, "three"], [video, np.zeros((5, 2)), 3], [np.zeros((4, 4, 2)), None]]
    figure = visualization.signal_table(rows, list("abc"), list("xyz"), 8000, "All", tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 1000
    panels = np.array(figure.axes).reshape(3, 3)
    assert (panels[1, 0].images[0].get_array() == 255).all()  # the middle frame
    assert panels[0, 2].texts[0].get_text() == "three" and not panels[2, 1].has_data()
    with pytest.raises(ValueError, match="`rows` must be one for each"):
        visualization.signal_table(rows, ["a"])
    figure = visualization.signal_table([[wave], [wave]], sample_rate=[8000, None])
    assert figure.axes[0].images and not figure.axes[1].images  # a spectrogram, and lines
    with pytest.raises(ValueError, match="`sample_rate` must be one for each"):
        visualization.signal_table(rows, sample_rate=[8000])
    with pytest.raises(ValueError, match="list of rows"):
        visualization.signal_table([])
    with pytest.raises(ValueError, match="at most four axes"):
        visualization.signal_table([[np.zeros((1,) * 5)]])


class Maker:
    """Stands for a generator: of a picture of what is given, the words "a" or "the", and a tone."""

    tasks = {"word_to_picture": (("word",), ("picture",)), "both": ((), ("picture", "word")), "word": ((), ("word",))}
    tasks["picture_to_sound"] = (("picture",), ("sound",))

    def modality(self, name):
        modality = Modality(name, PassThrough((2,), 2))
        modality.tokenizer.sample_rate = 8000 if name == "sound" else None
        return modality

    def guiding(self, given, want, guidance):
        return {name: guidance[name] for name in given if name in guidance}

    def generate(self, given, want, num_samples=None, seed=0, guidance=None):
        assert guidance is None or set(guidance) == set(given)
        n = num_samples or len(next(iter(given.values())))
        out = {"picture": np.full((n, 2, 2, 1), 1.0 if given else 0.0), "word": ["a", "the", "of"][:n], "sound": SINE}
        return {name: out[name] for name in want}


def test_filling_table_shows_what_is_given_and_what_is_made_of_it(tmp_path):
    example = {"picture": np.full((1, 2, 2, 1), -1.0), "word": ["one"]}
    path = tmp_path / "table.png"
    figure = visualization.filling_table(Maker(), example, num_joint=2, path=path, guidance={"word": 2.0})
    assert path.stat().st_size > 1000
    panels = np.array(figure.axes).reshape(2, 4)
    assert [panel.get_title() for panel in panels[0]] == ["recorded", "of word", "of nothing", "of nothing"]
    assert [int(panel.images[0].get_array().max()) for panel in panels[0]] == [0, 255, 128, 128]
    assert [panel.texts[0].get_text() for panel in panels[1]] == ["one", "one", "a", "the"]
    figure = visualization.filling_table(Maker(), {"sound": SINE, "picture": example["picture"]})
    assert all(panel.images for panel in figure.axes)  # the sound by the rate that its tokenizer knows: spectrograms
    with pytest.raises(ValueError, match=r"No task fills \['picture'\] up"):
        visualization.filling_table(Maker(), {"picture": example["picture"]})
    with pytest.raises(ValueError, match=r"end in \.png"):
        visualization.filling_table(Maker(), example, path=tmp_path / "table.jpg")
