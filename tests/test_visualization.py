import io

import keras
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_mmai import visualization

GREY = np.random.default_rng(0).uniform(-1.5, 1.5, size=(5, 8, 8, 1)).astype("float32")
RGB = np.random.default_rng(1).uniform(-1.0, 1.0, size=(5, 8, 6, 3))
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


def test_nan_is_painted_and_not_raised():
    image = np.full((1, 2, 2, 1), np.nan)
    assert (canvas_of(visualization.image_grid(image))[50, 50] == visualization.INVALID).all()


def test_takes_tensors_of_the_backend():
    visualization.image_grid(keras.ops.convert_to_tensor(GREY))


def test_loss_curves_has_a_panel_for_each_quantity_and_dashes_for_validation():
    figure = visualization.loss_curves({"one": HISTORY, "two": HISTORY})
    loss, norm = figure.axes
    assert (loss.get_title(loc="left"), norm.get_title(loc="left")) == ("loss", "gradient norm")
    drawn = [(line.get_linestyle(), line.get_color()) for line in loss.lines if len(line.get_ydata())]
    first, second = visualization.PALETTE[:2]
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
        (lambda: visualization.loss_curves({}), "at least one epoch"),
        (lambda: visualization.loss_curves({"loss": 3.0}), "value of each epoch"),
        (lambda: visualization.codebook_usage(np.zeros(4)), "not all zero"),
        (lambda: visualization.codebook_usage(np.ones((4, 2))), "bincount"),
    ],
)
def test_errors_teach(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
