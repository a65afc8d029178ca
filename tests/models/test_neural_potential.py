import pytest
import torch

from unot_fast.models import NeuralPotential, Potential


class Bowl(Potential):
    """g(x) = sum of cos: a potential of someone's own, with nothing but its value."""

    def forward(self, x, labels=None):
        return 0.3 * x.cos().sum(1)


def moved(potential, by=0.1):
    """Away from its start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in potential.parameters():
            p.add_(by * torch.randn_like(p))
    potential.project()
    return potential


@pytest.mark.parametrize(
    ("options", "error"),
    [({}, 0.01), ({"convex": False}, 0.01), ({"quadratic": 0}, 0.3), ({"classes": 3}, 0.01)],
)
@pytest.mark.parametrize("dim", [1, 2, 17, 64])
def test_starts_near_the_identity(dim, options, error):
    potential, x = NeuralPotential(dim, **options), torch.randn(100, dim)
    labels = torch.randint(3, (100,)) if "classes" in options else None
    assert (potential.transport(x, labels) - x).abs().mean() < error
    least, _ = potential.curvature(x, labels)
    assert (least > 0.5).all()


def test_layers_are_as_wide_as_the_space():
    potential, x = NeuralPotential(200, quadratic=0), torch.randn(50, 200)
    assert potential.widths == (200, 200)
    assert (potential.transport(x) - x).abs().mean() < 0.5
    assert NeuralPotential(3).widths == (128, 128)


def test_convex_whatever_the_weights():
    potential = moved(NeuralPotential(5, (16, 8, 8)), by=3.0)
    least, greatest = potential.curvature(3 * torch.randn(200, 5))
    assert (least > potential.strong - 1e-3 * greatest).all()


def test_a_free_potential_need_not_be_convex():
    potential = moved(NeuralPotential(5, (16, 8), convex=False), by=1.0)
    assert (potential.curvature(torch.randn(200, 5))[0] < 0).any()


@pytest.mark.parametrize("classes", [1, 3])
def test_derivatives(classes):
    potential = moved(NeuralPotential(4, (8, 8), classes=classes)).double()
    x = torch.randn(20, 4).double().requires_grad_()
    labels = torch.randint(classes, (20,)) if classes > 1 else None
    (expected,) = torch.autograd.grad(potential(x, labels).sum(), x)
    assert torch.allclose(potential.gradient(x, labels), expected)
    with torch.no_grad():
        assert torch.allclose(potential.gradient(x, labels), expected)
    v, step = torch.randn_like(x), 1e-6
    with torch.no_grad():
        ahead = potential.gradient(x + step * v, labels)
        behind = potential.gradient(x - step * v, labels)
    product = potential.hessian_vector(x, v, labels)
    assert torch.allclose(product, (ahead - behind) / (2 * step), atol=1e-7)


def test_second_derivatives_reach_the_weights():
    potential = moved(NeuralPotential(3, (8,)))
    potential.transport(torch.randn(5, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in potential.parameters())


def test_a_potential_of_ones_own():
    x = torch.randn(10, 3)
    potential = Bowl(3)
    assert torch.allclose(potential.gradient(x), -0.3 * x.sin(), atol=1e-6)
    assert torch.allclose(potential.transport(x), x - 0.3 * x.sin(), atol=1e-6)
    least, greatest = potential.curvature(x)
    curvatures = 1 - 0.3 * x.cos()
    assert torch.allclose(least, curvatures.amin(1), atol=1e-5)
    assert torch.allclose(greatest, curvatures.amax(1), atol=1e-5)


def test_arguments_are_checked():
    for arguments, message in (
        ({"dim": 0}, "dim must be positive"),
        ({"dim": 2, "widths": ()}, "widths must be"),
        ({"dim": 2, "classes": 0}, "classes must be positive"),
        ({"dim": 2, "sharpness": 0.0}, "sharpness must be positive"),
        ({"dim": 2, "strong": 2.0}, "strong must be in"),
        ({"dim": 2, "quadratic": -1}, "quadratic must not be negative"),
        ({"dim": 20, "widths": (8,), "quadratic": 0}, "widths must end with at least dim = 20"),
    ):
        with pytest.raises(ValueError, match=message):
            NeuralPotential(**arguments)
    with pytest.raises(ValueError, match="labels are needed"):
        NeuralPotential(2, classes=2)(torch.zeros(1, 2))
