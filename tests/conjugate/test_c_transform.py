import pytest
import torch

from tests.models.test_neural_potential import Bowl, moved
from unot_fast import NeuralPotential, c_transform
from unot_fast.conjugate import METHODS
from unot_fast.models import Potential


@pytest.fixture
def potential():
    """Not so sharp that curvatures at the starts tell nothing about those on the way."""
    return moved(NeuralPotential(5, (16, 16), sharpness=10.0)).double()


def points(n=50, dim=5):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_same_minimum(potential, method):
    z = points()
    exact = c_transform(potential, z, backend="reference", tol=1e-11)
    found = c_transform(potential, z, method=method, backend="torch", max_iter=3000, tol=1e-9)
    assert found.converged.all()
    assert torch.allclose(found.y, exact.y, atol=1e-6)
    assert torch.allclose(found.value, exact.value, atol=1e-9)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_search_in_torch_is_the_compiled_one(classes):
    potential = moved(NeuralPotential(5, (16, 16), classes=classes))
    z = points().float()
    labels = torch.randint(classes, (50,)) if classes > 1 else None
    compiled = c_transform(potential, z, labels, backend="cpu")
    plain = c_transform(potential, z, labels, backend="torch")
    assert (compiled.n_iters - plain.n_iters).abs().max() <= 1
    assert torch.allclose(compiled.y, plain.y, atol=2e-3)
    assert compiled.backend == "cpu"
    assert "'torch'" in repr(plain)


def test_the_inverse_of_the_map(potential):
    x = points()
    with torch.no_grad():
        z = potential.transport(x)
    assert torch.allclose(c_transform(potential, z, tol=1e-10).y, x, atol=1e-7)


def test_envelope_theorem(potential):
    """Derivatives of the value against differences of whole searches."""
    z, step = points(8), 1e-5
    weight = torch.linspace(-1, 1, 8).double()

    def total():
        return (c_transform(potential, z, tol=1e-12).value * weight).sum()

    for p in potential.parameters():
        flat = p.detach().flatten()
        (grad,) = torch.autograd.grad(total(), p)
        for k in {0, flat.numel() // 2, flat.numel() - 1}:
            with torch.no_grad():
                flat[k] += step
                ahead = total()
                flat[k] -= 2 * step
                behind = total()
                flat[k] += step
            assert float(grad.flatten()[k]) == pytest.approx(
                float(ahead - behind) / (2 * step), rel=1e-6, abs=1e-8
            )
    z.requires_grad_()
    (grad,) = torch.autograd.grad(total(), z)
    found = c_transform(potential, z.detach(), tol=1e-12)
    assert torch.allclose(grad, weight[:, None] * (z - found.y), atol=1e-9)


def test_no_graph_through_the_search(potential):
    found = c_transform(potential, points().requires_grad_(), backend="torch")
    assert not found.y.requires_grad
    assert found.value.requires_grad


def test_memory_does_not_grow_with_the_search(potential):
    """What is kept for the backward pass, however long the search."""
    kept, gradients = [], []
    for max_iter in (2, 200):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, held=held: held.append(t.untyped_storage().nbytes()) or t, lambda t: t
        ):
            found = c_transform(potential, points(), tol=1e-12, max_iter=max_iter)
        kept.append(sum(held))
        gradients.append(float(found.n_iters.float().mean()))
    assert gradients[1] > 5 * gradients[0]
    assert kept[0] == kept[1] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_potential_of_ones_own(method):
    z = points(30, 3)
    found = c_transform(Bowl(3), z, method=method, max_iter=2000)
    assert found.converged.all()
    assert found.backend == "torch"
    assert torch.allclose(found.y - 0.3 * found.y.sin(), z, atol=1e-6)


def test_any_leading_shape(potential):
    z = points().view(2, 5, 5, 5)
    found = c_transform(potential, z)
    assert found.y.shape == z.shape
    assert found.value.shape == found.converged.shape == (2, 5, 5)
    assert torch.equal(found.y.view(-1, 5), c_transform(potential, z.view(-1, 5)).y)
    assert c_transform(potential, z[0, 0, 0]).value.shape == ()
    assert c_transform(potential, z[:0]).y.shape == (0, 5, 5, 5)


def test_a_warm_start_is_soon_there(potential):
    z = points()
    cold = c_transform(potential, z, tol=1e-6)
    warm = c_transform(potential, z, start=cold.y, tol=1e-6)
    assert (warm.n_iters == 1).all()


class Ridge(Potential):
    """1 + greatest curvature of g is below 0: no prox exists."""

    def forward(self, x, labels=None):
        return -2 * x.square().sum(1)


class Steep(Potential):
    """Convex, with curvature from 1 to 10^4."""

    def forward(self, x, labels=None):
        scale = torch.logspace(0, 4, x.shape[1], dtype=x.dtype)
        return (scale * x.square()).sum(1) / 2


@pytest.mark.parametrize("method", ["lbfgs", "picard"])
def test_divergence_is_told(method):
    found = c_transform(Ridge(3), points(20, 3), method=method)
    assert not found.converged.any()
    assert found.y.isfinite().all()
    assert "20 not converged" in repr(found)


@pytest.mark.parametrize("method", ["gradient", "nesterov", "barzilai-borwein", "anderson"])
def test_steps_that_need_convexity_ask_for_it(method):
    with pytest.raises(ValueError, match="potential is not convex: u has a curvature of -3"):
        c_transform(Ridge(3), points(20, 3), method=method)
    # With bounds that are wrong they find the maximum, and it is not taken for a minimum.
    found = c_transform(Ridge(3), points(20, 3), method=method, bounds=(0.1, 5.0), max_iter=50)
    assert not found.converged.any()


def test_lbfgs_where_the_published_step_fails():
    z = points(20, 5)
    assert c_transform(Steep(5), z, tol=1e-6).converged.all()
    assert not c_transform(Steep(5), z, tol=1e-6, method="picard").converged.any()


def test_arguments_are_checked(potential):
    z = points(4)
    for error, message, arguments in (
        (TypeError, "potential must be a Potential", (torch.nn.Linear(5, 1), z)),
        (TypeError, "z must be float32", (potential, z.half())),
        (ValueError, r"z must have shape \(\.\.\., 5\)", (potential, z[:, :3])),
        (ValueError, "z must be finite", (potential, z / 0)),
        (ValueError, "labels must have shape", (potential, z, torch.zeros(3).long())),
    ):
        with pytest.raises(error, match=message):
            c_transform(*arguments)
    for message, options in (
        ("start must have shape", {"start": z[:2]}),
        ("start must be finite", {"start": z / 0}),
        ("tol must be positive", {"tol": 0.0}),
        ("max_iter must be positive", {"max_iter": 0}),
        ("method must be one of", {"method": "newton"}),
        ("memory must be in", {"memory": 17}),
        ("preconditioner must have shape", {"preconditioner": torch.eye(4)}),
        ("backend must be one of", {"backend": "cuda"}),
    ):
        with pytest.raises(ValueError, match=message):
            c_transform(potential, z, **options)
    with pytest.raises(ValueError, match="sharpness must be positive and finite"):
        NeuralPotential(5, sharpness=float("nan"))
    with pytest.raises(RuntimeError, match="searches by 'lbfgs'"):
        c_transform(Bowl(5), z, backend="cpu")


class Hilltops(Potential):
    """u has a maximum or a saddle at 0, and minima at a distance of 3^(1/2) in some columns."""

    def __init__(self, dim, bumps):
        super().__init__(dim)
        self.bumps = bumps

    def forward(self, x, labels=None):
        bumps = x[:, : self.bumps]
        return (-2 * bumps.square() + 0.25 * bumps**4).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "bumps"), [(1, 1), (2, 1), (2, 2), (40, 1), (40, 40)])
def test_a_saddle_is_left(dim, bumps, dtype):
    z = torch.zeros(5, dim, dtype=dtype)
    found = c_transform(Hilltops(dim, bumps), z)
    assert found.converged.all()
    assert torch.allclose(found.y[:, :bumps].abs(), z[:, :bumps] + 3**0.5, atol=1e-3)
    assert (c_transform(Hilltops(dim, bumps), z, verify=False).y == 0).all()


def test_a_maximum_is_no_minimum():
    found = c_transform(Ridge(3), torch.zeros(2, 3))
    assert not found.converged.any()


def test_no_step_leads_uphill():
    """Waves, over which slopes alone lead to valleys that are higher."""

    class Waves(Potential):
        def forward(self, x, labels=None):
            return (3 * (4 * x).sin() + 0.2 * x**2).sum(1)

    z = points(500, 2)
    before = z.square().sum(1) * 0 + Waves(2)(z)
    found = c_transform(Waves(2), z, max_iter=500)
    assert found.converged.all()
    assert (found.value <= before + 1e-9).all()
    free = NeuralPotential(2, (16, 16), convex=False)
    with torch.no_grad():
        free.top.copy_(3 * torch.randn(16, generator=torch.Generator().manual_seed(0)))
        for backend in ("cpu", "torch"):
            found = c_transform(free, z.float(), backend=backend)
            before = free(z.float())
            assert (found.value <= before + 1e-3 * (1 + before.abs())).all()


def test_overflow_is_not_convergence():
    for potential in (NeuralPotential(4), Bowl(4)):
        found = c_transform(potential, 1e30 * torch.randn(5, 4))
        assert not (found.converged & ~found.value.isfinite()).any()
        assert not (found.converged & ~found.residual.isfinite()).any()
    assert not c_transform(NeuralPotential(4), 1e30 * torch.ones(5, 4)).converged.any()


@pytest.mark.parametrize("own", [False, True])
def test_second_derivatives_raise(potential, own):
    potential = Plane(5).double() if own else potential
    z = points(4).requires_grad_()
    value = c_transform(potential, z).value.sum()
    leaves = (z, *potential.parameters())
    first = torch.autograd.grad(value, leaves, create_graph=True)
    for leaf in leaves:
        with pytest.raises(RuntimeError, match="second derivatives"):
            torch.autograd.grad(first[0].sum(), leaf, retain_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        (first[0].square().sum() + z.sum()).backward()


class Plane(Potential):
    def __init__(self, dim):
        super().__init__(dim)
        self.slope = torch.nn.Parameter(torch.ones(dim))

    def forward(self, x, labels=None):
        return x @ self.slope


@pytest.mark.parametrize("method", METHODS)
def test_no_points_and_planes(potential, method):
    assert c_transform(potential, points()[:0], method=method).y.shape == (0, 5)
    found = c_transform(Plane(3), points(6, 3).float(), method=method, max_iter=300)
    assert torch.allclose(found.y, points(6, 3).float() - 1, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_in_inference_mode(potential, method):
    z, own = points(6, 5), Bowl(5)
    outside = [c_transform(p, z, method=method, max_iter=50) for p in (potential, own)]
    with torch.inference_mode():
        inside = [c_transform(p, z.clone(), method=method, max_iter=50) for p in (potential, own)]
    for a, b in zip(outside, inside, strict=True):
        assert torch.equal(a.y, b.y)
