import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def call():
    """Run ``unot-fast`` with these arguments and return click's result."""
    from unot_fast.cli.group import group

    def run(*arguments):
        result = CliRunner().invoke(group, [str(x) for x in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def blob(shape, seed, channels=None):
    """A smooth 8-bit picture: a few spots of different brightness, none of them black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)

    def plane():
        spots = sum(
            rng.uniform(0.3, 1)
            * np.exp(-((y - rng.random()) ** 2 + (x - rng.random()) ** 2) / 0.05)
            for _ in range(3)
        )
        return np.uint8(10 + 240 * spots / spots.max())

    return plane() if channels is None else np.stack([plane() for _ in range(channels)], -1)


@pytest.fixture
def save(tmp_path):
    """Write an array as an image file and return its path."""

    def write(name, array, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)
        return path

    return write
