import click
import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import blob
from unot_fast.cli.images import fit, grid_shape, load, measures


def test_grey(save):
    values = blob((12, 9), 0)
    picture = load(save("a.png", values))
    assert not picture.is_colour
    np.testing.assert_allclose(picture.mass[0], values / 255)


def test_colour_and_luminance(save):
    values = blob((12, 9), 0, 3)
    picture = load(save("a.png", values))
    np.testing.assert_allclose(picture.mass, values.transpose(2, 0, 1) / 255)
    luminance = values @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(picture.grey().mass[0], luminance)


def test_colour_file_of_equal_channels_is_grey(save):
    values = blob((12, 9), 0)
    assert not load(save("a.png", np.stack([values] * 3, -1))).is_colour


@pytest.mark.parametrize("invert", [False, True])
def test_transparent_pixels_hold_no_mass(save, invert):
    values = blob((8, 8), 0, 4)
    values[..., 3] = 255
    values[:4, :, 3] = 0
    values[4, :, 3] = 51
    mass = load(save("a.png", values), invert).mass
    bright = values[..., :3].transpose(2, 0, 1) / 255
    expected = (1 - bright if invert else bright) * (values[..., 3] / 255)
    np.testing.assert_allclose(mass, expected)


def test_palette(save):
    values = blob((16, 8), 0, 3)
    path = save("a.png", values)
    with Image.open(path) as image:
        image.quantize(8).save(path)
    with Image.open(path) as image:
        assert image.mode == "P"
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(load(path).mass, expected)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(np.uint8([[0, 1], [1, 0]]), "P")
    image.putpalette([255, 255, 255, 90, 90, 90])
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_allclose(load(tmp_path / "a.png").mass[0] * 255, [[0, 90], [90, 0]])


def test_grey_with_a_transparent_level(save):
    path = save("a.png", np.uint8([[7, 200], [100, 7]]), transparency=7)
    np.testing.assert_allclose(load(path).mass[0] * 255, [[0, 200], [100, 0]])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_keep_their_precision(save, name):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5), dtype=np.uint16)
    np.testing.assert_allclose(load(save(name, values)).mass[0], values / 65535)


def test_bilevel(save):
    values = np.eye(5, dtype=bool)
    np.testing.assert_array_equal(load(save("a.png", values)).mass[0], values)


def test_float_tiff(save):
    values = np.random.default_rng(0).random((6, 5)).astype(np.float32)
    np.testing.assert_allclose(load(save("a.tif", values)).mass[0], values)


def test_cmyk(save, tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(blob((16, 16), 0, 3)).convert("CMYK").save(path)
    assert load(path).mass.shape == (3, 16, 16)


def test_the_camera_orientation_is_applied(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    assert load(save("a.jpg", blob((16, 8), 0), exif=exif)).shape == (8, 16)


def test_not_an_image(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(click.ClickException, match=r"notes\.png: cannot be read as an image"):
        load(path)


def test_truncated_file(save):
    path = save("a.png", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(click.ClickException, match=r"a\.png: cannot be read as an image"):
        load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_unusable_floats(save, bad):
    values = np.ones((4, 4), np.float32)
    values[1, 2] = bad
    with pytest.raises(click.ClickException, match=r"a\.tif: .*negative, infinite or NaN pixels"):
        load(save("a.tif", values))


def test_black_picture_names_the_file(save):
    picture = load(save("night.png", np.zeros((5, 5), np.uint8)))
    with pytest.raises(click.ClickException, match=r"night\.png: the picture has no mass"):
        measures(picture, (5, 5), 1e-6)


def test_empty_channel_names_it(save):
    values = blob((5, 5), 0, 3)
    values[..., 2] = 0
    with pytest.raises(click.ClickException, match=r"a\.png: the blue channel has no mass"):
        measures(load(save("a.png", values)), (5, 5), 1e-6)


@pytest.mark.parametrize("dust", [0.0, 1e-6, 1e-3])
def test_measures_have_total_one_and_dust(save, dust):
    values = blob((8, 8), 0)
    values[:2] = 0
    measure = measures(load(save("a.png", values)), (8, 8), dust)[0]
    assert measure.sum() == pytest.approx(1)
    assert measure.min() == pytest.approx(dust / (1 + 64 * dust))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((300, 450), None, (43, 64)),
        ((28, 20), None, (28, 20)),
        ((28, 20), 56, (56, 40)),
        ((300, 450), (30, 30), (30, 30)),
        ((1000, 1), None, (64, 1)),
        ((1, 1), None, (1, 1)),
    ],
)
def test_grid_shape(shape, size, expected):
    assert grid_shape(shape, size) == expected


def test_fit_averages_over_areas():
    mass = np.random.default_rng(0).random((2, 12, 8))
    expected = mass.reshape(2, 6, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(fit(mass, (6, 4)), expected, rtol=1e-6)


def test_fit_keeps_the_aspect_ratio_and_centres():
    out = fit(np.ones((1, 10, 20)), (16, 16))[0]
    np.testing.assert_allclose(out[4:12], 1)
    assert out[:4].sum() == out[12:].sum() == 0


@pytest.mark.parametrize("shape", [(1000, 20), (20, 1000), (100, 33), (33, 100), (1, 7), (7, 1)])
def test_a_picture_fills_its_own_grid(shape):
    assert fit(np.ones((1, *shape)), grid_shape(shape, None)).min() == pytest.approx(1)
