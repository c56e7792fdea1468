"""What the processes of torch exchange, by `torch.distributed`."""

import contextlib
import datetime
import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from keras_optkit.distribution.process_group import PATIENCE, ProcessGroup


class TorchExchange:
    """Tensors from and to all processes: GPUs exchange by NCCL, CPUs by gloo.

    Args:
        group: The processes, which have met.
        device: String such as `"gpu:0"`, what this process trains on.
        limit: Float > 0, seconds within which every process has to answer.

    Raises:
        RuntimeError: If `torch.distributed` cannot start.
    """

    def __init__(self, group: ProcessGroup, device: str, limit: float = 600.0):
        self.group = group
        self.count, self.index = group.count, group.index
        self.failure: Exception | None = None
        kind, _, number = device.partition(":")
        if kind == "gpu":
            torch.cuda.set_device(int(number))
        if not dist.is_initialized():
            _start("nccl" if kind == "gpu" else "gloo", group, limit)
        self.backend = dist.get_backend()
        self._small = dist.group.WORLD
        if self.backend != "gloo":
            # Small numbers go by a way that does not wait for the GPU.
            timeout = datetime.timedelta(seconds=limit)
            self._small = dist.new_group(backend="gloo", timeout=timeout)

    def borders(self, samples: int) -> list[int]:
        """Returns where the processes' parts of so many samples begin, and where the last ends."""
        return [samples * place // self.count for place in range(self.count + 1)]

    def gather(self, tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Returns the tensors of each process, whose shapes must agree, in one exchange."""
        flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
        own = torch.cat(flat)
        every = own.new_empty((self.count, len(own)))
        with self._told():
            dist.all_gather(list(every.unbind()), own)
        sizes = [len(part) for part in flat]
        return [
            [
                # A copy: numbers of several bytes must not begin anywhere.
                part.clone().view(tensor.dtype).reshape(tensor.shape)
                for part, tensor in zip(row.split(sizes), tensors, strict=True)
            ]
            for row in every.unbind()
        ]

    def mean(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the means of tensors over all processes, in one exchange for each dtype."""
        means = list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            flat = torch.cat([tensors[i].detach().reshape(-1) for i in places])
            with self._told():
                dist.all_reduce(flat)
            flat /= self.count
            parts = flat.split([tensors[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                means[i] = part.view(tensors[i].shape)
        return means

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Gives tensors the values that they have in the chief."""
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in same])
            with self._told():
                dist.broadcast(flat, 0)
            with torch.no_grad():
                for t, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                    t.copy_(part.view(t.shape))

    def tell(self, numbers: Sequence[int]) -> list[list[int]]:
        """Returns a few integers of each process."""
        own = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        every = [torch.empty_like(own) for _ in range(self.count)]
        with self._told():
            dist.all_gather(every, own, group=self._small)
        return [row.tolist() for row in every]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            gone = self.group.gone(PATIENCE)
            if gone:
                self.failure = self.group.told_that_gone(gone[0])
            else:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.failure = RuntimeError(
                    "The processes lost each other: one has ended, does not answer, or came to "
                    "another step. Look at the last lines of each, and start all again; with "
                    f"`Resume` they go on from the last save. Received: {reason!r} in process "
                    f"{self.index} of {self.count}"
                )
            raise self.failure from error


def _start(backend: str, group: ProcessGroup, limit: float) -> None:
    """Starts `torch.distributed` at a free port of the chief's machine."""
    timeout = datetime.timedelta(seconds=limit)
    host = group.environment.addresses[0].rpartition(":")[0].strip("[]")
    store = None

    def listen() -> bytes:
        nonlocal store
        store = dist.TCPStore(host, 0, group.count, True, timeout, wait_for_workers=False)
        return str(store.port).encode()

    port = int(group.from_chief(listen))
    if store is None:
        store = dist.TCPStore(host, port, group.count, False, timeout, wait_for_workers=False)
    dist.init_process_group(
        backend, store=store, rank=group.index, world_size=group.count, timeout=timeout
    )


def sizes(borders: Sequence[int]) -> list[int]:
    """Returns the numbers of samples between borders."""
    return [end - start for start, end in itertools.pairwise(borders)]
