import pytest
import torch

from bench import problems, truth
from bench.gpu import roofline


def test_fields_are_measures_and_batches_begin_alike():
    large, small = problems.fields(12, 5), problems.fields(12, 2)
    for x in (large.a, large.b):
        torch.testing.assert_close(x.sum((-1, -2)), torch.ones(5, dtype=torch.float64))
        assert bool((x > 0).all())
    torch.testing.assert_close(large.a[:2], small.a)
    assert large.take(2).batch == 2


def test_cells_are_seeded_pairs_of_measures():
    try:
        first, again = (problems.cell("CIFAR-MNIST", 3) for _ in "12")
    except problems.DataMissing as reason:
        pytest.skip(str(reason))
    assert first.a.shape == first.b.shape == (3, 28, 28)
    assert torch.equal(first.a, again.a)
    # Digits have empty pixels, which hold nothing but dust; photographs do not.
    assert float(first.b.amin((-1, -2)).max()) < 1.1e-6
    torch.testing.assert_close(first.b.sum((-1, -2)), torch.ones(3, dtype=torch.float64))


def test_missing_data_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("UNOT_FAST_DATA", str(tmp_path))
    with pytest.raises(problems.DataMissing, match=r"bears\.npz"):
        problems._measures("bears", 63)
    monkeypatch.setenv("UNOT_FAST_DATA", str(tmp_path / "absent"))
    with pytest.raises(problems.DataMissing, match="UNOT_FAST_DATA"):
        problems.data_directory()


def test_the_two_references_agree():
    """Plain log-sum-exp iterates, run long, have the cost of the overrelaxed scalings."""
    problem = problems.fields(9, 2, epsilon=0.1)
    f, g = truth.plain_potentials(problem, 200)
    torch.testing.assert_close(
        truth.transport_cost(problem, f, g), truth.converged_cost(problem), rtol=1e-8, atol=0
    )
    assert float(truth.cost_error(problem, f, g).max()) < 1e-8


def test_cost_is_that_of_the_dense_plan():
    problem = problems.fields(5, 1)
    f, g = truth.plain_potentials(problem, 3)
    x = torch.cartesian_prod(*[torch.linspace(0, 1, 5, dtype=torch.float64)] * 2)
    cost = (x[:, None] - x).square().sum(-1)
    log_plan = (f.reshape(-1, 1) + g.reshape(1, -1) - cost) / problem.epsilon
    plan = problem.a.reshape(-1, 1) * problem.b.reshape(1, -1) * log_plan.exp()
    torch.testing.assert_close(
        truth.transport_cost(problem, f, g)[0], (plan * cost).sum(), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("start", ["measures", "ones"])
def test_iterations_to_is_the_first_within_the_tolerance(start):
    problem = problems.fields(8, 2, epsilon=0.05)
    count = truth.iterations_to(problem, 1e-2, start, 1.0)
    if start == "measures":
        errors = [
            float(truth.cost_error(problem, *truth.plain_potentials(problem, k)).max())
            for k in range(1, count + 1)
        ]
        assert errors[-1] <= 1e-2
        assert all(e > 1e-2 for e in errors[:-1])
    assert truth.iterations_to(problem, 1e-3, start, 1.0) >= count


def test_potential_error_ignores_the_free_constant():
    problem = problems.fields(6, 2)
    f, g = truth.plain_potentials(problem, 2)
    assert truth.potential_error(problem, (f + 1, g - 1), (f, g)) < 1e-10
    assert truth.potential_error(problem, (f, g + 1), (f, g)) == pytest.approx(1 / problem.epsilon)


def test_floor_is_the_slower_of_arithmetic_and_memory():
    flops, tensor, bandwidth = roofline.PEAKS["H200"]
    assert roofline.sinkhorn(64, 2, 100).floor("NVIDIA H200") == pytest.approx(
        8 * 64**3 * 200 / flops
    )
    assert roofline.log_sum_exp(4, 2).floor("NVIDIA H200") == pytest.approx(2 * 16 * 8 / bandwidth)
    assert roofline.log_sum_exp(4, 2).floor("another") is None
    image = roofline.spectral_analysis(4, 5, 3, products=3)
    assert image.floor("H200") == pytest.approx(4 * 5 * (16 + 2 * 9) / bandwidth)
    deep = roofline.channel_mlp(4, 5, 64, 2**15, products=3)
    assert deep.floor("H200") == pytest.approx(3 * 4 * 16 * 5 * 64 * 2**15 / tensor)


def test_floor_of_a_spectral_block_is_of_three_fields():
    work = roofline.spectral_block(64, 64, 64, 256, 10, products=1, backward=False)
    fields = 3 * roofline.field(64, 64, 64)
    assert fields < work.bytes < 1.2 * fields
    assert 4e-5 < work.floor("H200") < 5e-5
