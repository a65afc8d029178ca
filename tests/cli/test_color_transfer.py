import numpy as np
from PIL import Image

from tests.cli.conftest import blob


def test_colours_of_another_picture(call, save, tmp_path):
    a = save("a.png", blob((40, 30), 0, channels=3))
    b = save("b.png", np.uint8(blob((25, 35), 5, channels=3) * [0.5, 0.9, 0.2] + 20))
    out, back = tmp_path / "new" / "c.png", tmp_path / "back.png"
    result = call("color-transfer", a, b, "-o", out, "--back", back, "--budget", "2s")
    assert result.exit_code == 0
    first, second, moved = (np.asarray(Image.open(p), np.float64) for p in (a, b, out))
    assert moved.shape == first.shape
    assert np.asarray(Image.open(back)).shape == second.shape
    aim = second.mean((0, 1))
    assert np.abs(moved.mean((0, 1)) - aim).max() < 0.1 * np.abs(first.mean((0, 1)) - aim).max()
    assert "common histogram" in result.output
    # Equal colours stay equal: the map is one of colours, not of places.
    flat, new = first.reshape(-1, 3), moved.reshape(-1, 3)
    _, place = np.unique(flat, axis=0, return_inverse=True)
    spread = [np.ptp(new[place == k], axis=0).max() for k in range(0, place.max(), 50)]
    assert max(spread) == 0


def test_what_cannot_be_written_is_told_before_the_fit(call, save, tmp_path):
    a = save("a.png", blob((10, 10), 0, channels=3))
    for output, message in (
        ("o.xyz", "'.xyz' is no kind of picture"),
        ("o", "'no extension' is no kind of picture"),
        ("a.png/o.png", "is no folder to write to"),
    ):
        result = call("color-transfer", a, a, "-o", tmp_path / output, "--budget", "1h")
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")
    result = call("color-transfer", a, a, "-o", tmp_path / "o.png", "--budget", "0s")
    assert result.exit_code == 2
    assert "is no time at all" in result.output
