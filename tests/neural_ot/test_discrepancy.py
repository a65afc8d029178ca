import pytest
import torch

from unot_fast import NeuralOT
from unot_fast.neural_ot import by_class, energy_distance, mmd, sliced_w2


@pytest.mark.parametrize("discrepancy", [mmd, energy_distance])
def test_unbiased(discrepancy):
    same = torch.stack([discrepancy(torch.randn(40, 3), torch.randn(60, 3)) for _ in range(300)])
    error = same.std() / len(same) ** 0.5
    assert abs(float(same.mean())) < 4 * float(error)
    assert discrepancy(torch.randn(40, 3), torch.randn(60, 3) + 1) > 5 * same.std()


def test_energy_distance_of_two_points():
    x = torch.tensor([[0.0], [2.0]])
    y = torch.tensor([[1.0], [4.0]])
    # |x - y|: 1, 4, 1, 2; |x - x'|: 2; |y - y'|: 3
    assert energy_distance(x, y) == pytest.approx(2 * 2.0 - 2 - 3)


def test_sliced_w2_of_a_shift():
    x = torch.randn(2000, 2)
    found = sliced_w2(x, x + torch.tensor([3.0, 4.0]), 1000)
    assert found == pytest.approx(5 / 2**0.5, rel=0.05)
    assert sliced_w2(x, x[torch.randperm(2000)]) == 0
    assert sliced_w2(x, torch.randn(700, 2)) < 0.15


def test_classes_are_looked_at_one_by_one():
    labels = torch.arange(400) % 2
    x = torch.randn(400, 1) + 6.0 * labels[:, None]
    swapped = torch.randn(400, 1) + 6.0 * (1 - labels[:, None])
    assert abs(float(mmd(x, swapped))) < 0.02
    assert by_class(mmd, x, labels, swapped, labels) > 0.3
    with pytest.raises(ValueError, match="no class has two points"):
        by_class(mmd, x[:1], labels[:1], x, labels)
    with pytest.raises(ValueError, match="two points at least"):
        mmd(x[:1], x)
    with pytest.raises(ValueError, match="as many columns"):
        mmd(x, torch.zeros(4, 2))


@pytest.mark.parametrize("weights", [{"mmd": 0.1}, {"energy": 0.1}], ids=str)
@pytest.mark.parametrize("classes", [1, 2])
def test_a_fit_with_a_discrepancy(classes, weights):
    x, z = torch.randn(500, 2), torch.randn(500, 2) * 2 + 1
    labels = torch.arange(500) % 2 if classes == 2 else None
    ot = NeuralOT(2, (16, 16), classes=classes, batch=128, patience=100, **weights)
    ot.fit(x, z, source_labels=labels, target_labels=labels, steps=60)
    assert mmd(ot.transport(x, labels), z) < 0.01
    assert all(p.isfinite().all() for p in ot.potential.parameters())
    half = float((x * 2 + 1 - x).square().sum(1).mean()) / 2
    value = ot.dual_value(x, z, None if labels is None else (labels, labels))
    assert value == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("discrepancy", [mmd, energy_distance])
def test_classes_are_as_frequent_on_either_side(discrepancy):
    """0 in the mean for classes of one distribution, however many points there are of each."""
    torch.manual_seed(0)
    pooled, weighted = [], []
    for _ in range(100):
        labels = [(torch.rand(60) < share).long() for share in (0.8, 0.3)]
        x, y = (torch.randn(60, 2) + 4 * k[:, None] for k in labels)
        pooled.append(float(discrepancy(x, y)))
        weighted.append(float(discrepancy(x, y, tuple(labels))))
    weighted = torch.tensor(weighted)
    assert abs(weighted.mean()) < 4 * weighted.std() / 10
    assert sum(pooled) / 100 > 20 * weighted.mean().abs()
