import numpy as np
import pytest
import torch

from tests.conftest import DATA
from tests.experiments.test_translation import bars
from unot_fast import NeuralOT


def test_gaussians(call, tmp_path):
    result = call(
        "neural-ot", "gaussians", "--dim", 2, "--seeds", 2, "--budget", "0.3s",
        "--quadratic", "-o", tmp_path / "out" / "table.md",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "d=2: UVP" in result.output
    assert (tmp_path / "out" / "table.md").read_text().splitlines()[-1].startswith("| 2 | 2 |")


def test_convex_g(call):
    result = call("neural-ot", "gaussians", "--dim", 2, "--budget", "0.3s", "--convex-g")
    assert "no convex g is better than" in result.output


def test_w2_benchmark(call):
    path = DATA / "w2_benchmark_2.npz"
    if not path.exists():
        pytest.skip(f"no benchmark pair: {path} is missing (set UNOT_FAST_DATA)")
    result = call("neural-ot", "w2-benchmark", path, "--budget", "0.3s")
    assert result.exit_code == 0
    assert "| 2 | 1 |" in result.output


def test_fit_tables(call, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")
    np.save(tmp_path / "z.npy", 2 * rng.normal(size=(400, 3)) + 1)
    out, moved = tmp_path / "ot.safetensors", tmp_path / "moved.npy"
    result = call(
        "neural-ot", "fit", tmp_path / "x.csv", tmp_path / "z.npy", "-o", out, "--moved", moved,
        "--smooth", 0, "--budget", "0.5s",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "W2 by the dual" in result.output
    again = NeuralOT.load(out).transport(torch.from_numpy(x).float())
    assert np.allclose(again.numpy(), np.load(moved), atol=1e-5)
    assert not (tmp_path / "ot.safetensors.part").exists()


def test_tables_must_match(call, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 3)))
    np.save(tmp_path / "z.npy", np.zeros((5, 2)))
    result = call("neural-ot", "fit", tmp_path / "x.npy", tmp_path / "z.npy", "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert "columns differ: 3 and 2" in result.output


def test_toys(call, tmp_path):
    result = call(
        "neural-ot", "toys", "--toy", "moons", "-o", tmp_path / "out", "--budget", "0.5s"
    )  # fmt: skip
    assert result.exit_code == 0
    assert "moons: energy distance forward" in result.output
    assert (tmp_path / "out" / "moons.png").stat().st_size > 0


def test_table(call, tmp_path):
    rows = np.random.default_rng(0).gamma(2.0, size=(400, 2))
    np.save(tmp_path / "rows.npy", rows)
    result = call("neural-ot", "table", tmp_path / "rows.npy", "--budget", "0.5s")
    assert result.exit_code == 0
    assert "rows.npy: 2 columns, 324 + 36 + 40 rows" in result.output
    assert "| moved normals |" in result.output
    result = call("neural-ot", "table", tmp_path / "rows.npy", "--set", "power")
    assert result.exit_code == 2
    assert "power has 8 columns" in result.output


def test_images(call, tmp_path):
    for name, standing in (("a", False), ("b", True)):
        pictures, labels = bars(300, standing=standing, seed=0)
        np.savez(tmp_path / f"{name}.npz", images=pictures, labels=labels)
    out = tmp_path / "out"
    result = call(
        "neural-ot", "images", tmp_path / "a.npz", tmp_path / "b.npz", "-o", out, "--latent", 3,
        "--network-budget", "0.5s", "--budget", "0.5s",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| moved as Gaussians, class by class |" in (out / "table.md").read_text()
    assert (out / "translations.png").stat().st_size > 1000
    assert {p.stem for p in out.glob("*.safetensors")} == {"source", "target", "transport"}
    np.savez(tmp_path / "c.npz", images=pictures)
    result = call("neural-ot", "images", tmp_path / "a.npz", tmp_path / "c.npz", "-o", out)
    assert result.exit_code == 2
    assert "has no array 'labels'" in result.output


def test_what_cannot_be_fitted_is_told_in_a_line(call, tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 2))
    for name, rows in (("x", x), ("nan", x * np.nan), ("one", x[:1]), ("complex", x + 1j)):
        np.save(tmp_path / f"{name}.npy", rows)
    np.savez(tmp_path / "covariances.npz", d3_Sigma0=np.eye(3), d3_Sigma1=np.eye(3))
    x, out = tmp_path / "x.npy", tmp_path / "out"
    for arguments, message in (
        (("fit", x, tmp_path / "nan.npy", "-o", out), "target must be finite"),
        (("fit", x, x, "-o", out, "--budget", "0s"), "is no time at all"),
        (("fit", tmp_path / "one.npy", x, "-o", out), "source has no spread"),
        (("fit", tmp_path / "complex.npy", x, "-o", out), "no table of real numbers"),
        (("fit", x, x, "-o", x / "out"), "is no folder to write to"),
        (("table", tmp_path / "complex.npy"), "must be a table of"),
        (("gaussians", "--covariances", tmp_path / "covariances.npz"), "has no d2_Sigma0"),
    ):
        result = call("neural-ot", *arguments)
        assert result.exit_code in (1, 2)
        assert message in result.output.replace("\n", " ")


def test_a_new_folder_and_an_old_checkpoint(call, tmp_path):
    rng = np.random.default_rng(0)
    for name in "xz":
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(100, 2)))
    x, z, out = tmp_path / "x.npy", tmp_path / "z.npy", tmp_path / "new" / "deep" / "ot"
    assert call("neural-ot", "fit", x, z, "-o", out, "--budget", "0.3s").exit_code == 0
    assert out.exists()
    part = out.with_name("ot.part")
    NeuralOT(2).fit(torch.randn(50, 2), torch.randn(50, 2), steps=2, checkpoint=part)
    result = call("neural-ot", "fit", x, z, "-o", out, "--budget", "0.3s")
    assert result.exit_code == 1
    assert f"delete {part} to begin afresh" in result.output
