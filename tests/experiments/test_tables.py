"""The physical sets in small stand-ins of their files, and a fit of a table."""

import numpy as np
import pytest
import torch

from tests.conftest import DATA
from unot_fast.experiments import fit_table, load_table

RNG = np.random.default_rng(0)


def saved(tmp_path, rows, name="data.npy"):
    np.save(tmp_path / name, rows)
    return tmp_path / name


def check(table, dim, rows):
    assert table.dim == dim
    assert sum(map(len, (table.train, table.validation, table.test))) == rows
    known = torch.cat((table.train, table.validation))
    assert known.mean(0).abs().max() < 1e-4
    assert (known.std(0) - 1).abs().max() < 1e-2


def test_any_table(tmp_path):
    rows = RNG.normal(5.0, 3.0, (1000, 4))
    rows[:, 2] = 7.0
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    for path in (saved(tmp_path, rows), tmp_path / "rows.csv"):
        table = load_table(path)
        check(table, 3, 1000)
        assert (len(table.test), len(table.validation)) == (100, 90)
    again = load_table(saved(tmp_path, rows))
    assert torch.equal(table.train, again.train)


def test_power(tmp_path):
    rows = np.round(RNG.normal(size=(500, 8)), 2)
    check(load_table(saved(tmp_path, rows), "power"), 6, 500)
    with pytest.raises(ValueError, match="power has 8 columns; got 5"):
        load_table(saved(tmp_path, rows[:, :5]), "power")


def test_gas(tmp_path):
    rows = RNG.normal(size=(500, 5))
    rows[:, 3] = 2 * rows[:, 0] + 1e-3 * rows[:, 3]
    check(load_table(saved(tmp_path, rows), "gas"), 4, 500)


def test_hepmass(tmp_path):
    rows = RNG.normal(size=(600, 5))
    rows[:, 0] = np.arange(600) % 2
    rows[:, 3] = np.round(rows[:, 3])
    for part, extra in (("train", 0), ("test", 1)):
        file = np.column_stack([rows, *[rows[:, 1]] * extra])
        np.savetxt(tmp_path / f"1000_{part}.csv", file, delimiter=",", header="a,b", comments="")
    check(load_table(tmp_path, "hepmass"), 3, 600)


def test_miniboone(tmp_path):
    check(load_table(saved(tmp_path, RNG.normal(size=(300, 43))), "miniboone"), 43, 300)


def test_bsds300(tmp_path):
    h5py = pytest.importorskip("h5py")
    parts = {k: RNG.normal(size=(30, 63)) for k in ("train", "validation", "test")}
    with h5py.File(tmp_path / "BSDS300.hdf5", "w") as file:
        for name, rows in parts.items():
            file[name] = rows
    table = load_table(tmp_path / "BSDS300.hdf5", "bsds300")
    assert np.allclose(table.test.numpy(), parts["test"], atol=1e-6)


def test_what_is_no_table(tmp_path):
    for rows, message in (
        (np.zeros((5, 2)), "20 rows at least"),
        (np.full((50, 2), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            load_table(saved(tmp_path, rows))
    np.savez(tmp_path / "x.npz", rows=np.zeros((50, 2)))
    with pytest.raises(ValueError, match="no array 'data'"):
        load_table(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="name must be one of"):
        load_table(tmp_path / "x.npz", "iris")


def test_a_fit_is_nearer_than_a_gaussian():
    path = DATA / "tab_shuttle.npz"
    if not path.exists():
        pytest.skip(f"no table: {path} is missing (set UNOT_FAST_DATA)")
    found = fit_table(load_table(path), 12.0)
    assert found["energy"] < 0.3 * found["gaussian_energy"]
    assert found["converged"] > 0.99
    assert found["cycle"] < 1e-4
