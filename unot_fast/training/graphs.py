"""Steps of a training without the work of launching them kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

_WARM_UP = 2  # calls, after which tables are made and kernels loaded


class Graphs:
    """Calls on a GPU, each recorded once as a CUDA graph and replayed from then on.

    For one `Trainer`, whose steps are hundreds of small kernels where the network or the batch is
    small. A graph is made for every shape of a batch, and with bootstrap targets for every
    resolution; all share one pool of memory. Checked on the CPU with a recorder that replays
    operators one by one; they have not run on a GPU.

    Parameters
    ----------
    record : callable, optional
        Makes ``replay()`` of ``call()``, which it may call as often as it likes; by default as a
        CUDA graph.

    Raises
    ------
    RuntimeError
        There is no ``record``, and no CUDA device.
    """

    def __init__(self, record: Callable[[Callable[[], None]], Callable[[], None]] | None = None):
        if record is None and not torch.cuda.is_available():
            raise RuntimeError("graphs need a CUDA device")
        self._record = _CudaGraphs() if record is None else record
        self._recorded: dict[
            Hashable, tuple[list[Tensor | None], Callable[[], None], Callable]
        ] = {}

    def __call__(
        self,
        key: Hashable,
        call: Callable[..., None],
        tensors: Sequence[Tensor | None],
        changed: Sequence[Tensor],
    ) -> None:
        """``call(*tensors)``, or what was recorded for the same key and the same shapes.

        Parameters
        ----------
        key : hashable
            Tells calls apart that do different things.
        call : callable
            Returns nothing, and reads no number from the device. Other tensors than its
            arguments are the same ones at every replay.
        tensors : sequence of Tensor or None
        changed : sequence of Tensor
            All that it changes, in place.
        """
        if isinstance(self._record, _CudaGraphs) and not all(x.is_cuda for x in changed):
            raise ValueError("graphs: what is trained must be on a CUDA device")
        key = key, *(None if x is None else (x.shape, x.dtype) for x in tensors)
        if key not in self._recorded:
            own = [None if x is None else x.clone() for x in tensors]
            before = [x.clone() for x in changed]
            with torch.cuda.device_of(changed[0]):
                replay = self._record(lambda: call(*own))
            for x, value in zip(changed, before, strict=True):
                x.copy_(value)
            # With the call, whose constants a graph goes on reading.
            self._recorded[key] = own, replay, call
        own, replay, _ = self._recorded[key]
        for mine, x in zip(own, tensors, strict=True):
            if x is not None:
                mine.copy_(x)
        replay()


class _CudaGraphs:
    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        if self.stream is None:
            self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(_WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self.pool, self.stream):
            call()
        return graph.replay
