"""The bar of a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unot_fast.neural_ot.fit import Row


@contextmanager
def progress_bar(
    shown: bool, steps: int | None, budget: float | None
) -> Iterator[Callable[[float, Row | None], None]]:
    """A function to be told how much is done, and of validations; it draws if ``shown``."""
    if not shown:
        yield lambda done, row: None
        return
    from tqdm import tqdm

    total, unit = (budget, "s") if steps is None else (steps, "step")
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=total, unit=unit, bar_format=shape) as bar:

        def told(done: float, row: Row | None) -> None:
            bar.update(min(done, 1.0) * total - bar.n)
            if row is not None:
                bar.set_postfix(dual=f"{row.dual:.4f}", iterations=f"{row.n_iters:.1f}")

        yield told
