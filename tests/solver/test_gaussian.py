"""Functions of covariances, without eigenvectors where there are two axes."""

import pytest
import torch

from unot_fast.solver.gaussian import _matrix_function


@pytest.mark.parametrize("function", [torch.sqrt, lambda s: 1 / ((s + 0.01).sqrt() + 0.1)])
def test_functions_of_two_by_two_matrices(function):
    root = torch.randn(64, 2, 2, dtype=torch.float64)
    root[0] = 0.0
    root[1] = 3 * torch.eye(2)
    root[2, 1] = 2 * root[2, 0]  # of points on a line
    root[3] = torch.diag(torch.tensor([1.0, 1e-9]))
    matrix = root @ root.mT
    values, vectors = torch.linalg.eigh(matrix)
    expected = vectors * function(values.clamp_min(0)).unsqueeze(-2) @ vectors.mT
    torch.testing.assert_close(_matrix_function(matrix, function), expected, rtol=1e-9, atol=1e-7)
