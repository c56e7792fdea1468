"""The processes of `torch.distributed`, and what they tell each other."""

import contextlib
import datetime
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


class TorchGroup:
    """The processes that train together.

    A process is one of `WORLD_SIZE`, the one of number `RANK`, as `torchrun` and the launcher of
    this package say it. GPUs exchange by NCCL, CPUs by gloo.

    Args:
        start_limit: Float > 0, seconds within which all processes have to come.
        limit: Float > 0, seconds within which every process has to answer.

    Raises:
        ValueError: If the environment does not say who trains together.
        RuntimeError: If not all processes come in time, or the port is in use.
    """

    def __init__(self, start_limit: float, limit: float):
        missing = [name for name in _VARIABLES if not os.environ.get(name)]
        if missing and not dist.is_initialized():
            raise ValueError(
                f"The environment must say where process 0 is (MASTER_ADDR, MASTER_PORT), how many "
                "processes there are (WORLD_SIZE) and which this is (RANK); `python -m "
                "keras_optkit.distribution launch` and `torchrun` set all. Received: no "
                f"{', '.join(missing)}"
            )
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            _start("nccl" if gpu else "gloo", start_limit, limit)
        self.backend = dist.get_backend()
        self.failure: RuntimeError | None = None
        self.count, self.rank = dist.get_world_size(), dist.get_rank()
        # Small numbers go by a way that does not wait for the GPU.
        self._small = dist.group.WORLD
        if self.backend != "gloo":
            timeout = datetime.timedelta(seconds=limit)
            self._small = dist.new_group(backend="gloo", timeout=timeout)

    @property
    def device(self) -> str:
        """The name of the device that this process trains on."""
        return f"gpu:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu:0"

    def share(self, samples: int) -> tuple[int, int]:
        """Returns where this process' part of so many samples begins, and where it ends."""
        start, *_, end = self.shares(samples)[self.rank :][:2]
        return start, end

    def shares(self, samples: int) -> list[int]:
        """Returns where the processes' parts of so many samples begin, and where the last ends."""
        return [samples * place // self.count for place in range(self.count + 1)]

    def gather(self, tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Returns the tensors of each process, whose shapes must agree, in one exchange."""
        flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
        own = flat[0] if len(flat) == 1 else torch.cat(flat)
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
        """Gives tensors the values that they have in process 0."""
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

    def from_chief(self, value: Any) -> Any:
        """Returns the Python object that process 0 has."""
        values = [value]
        with self._told():
            dist.broadcast_object_list(values, 0, group=self._small)
        return values[0]

    def share_randomness(self) -> None:
        """Lets Python, NumPy and torch draw what they draw in process 0 from here on."""
        states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        python, numpy, own = self.from_chief(states)
        if self.rank:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_rng_state(own)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.failure = RuntimeError(
                "Another process of this training has ended or does not answer. Look at its last "
                "lines, and start all of them again; with `Resume` they go on from the last save. "
                f"Received: {reason!r}, in process {self.rank} of {self.count}"
            )
            raise self.failure from error


def _start(backend: str, start_limit: float, limit: float) -> None:
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    rank, count = os.environ["RANK"], os.environ["WORLD_SIZE"]
    start = datetime.timedelta(seconds=start_limit)
    try:
        store, number, of = next(dist.rendezvous("env://", timeout=start))
        store.set_timeout(start)
        timeout = datetime.timedelta(seconds=limit)
        dist.init_process_group(backend, store=store, rank=number, world_size=of, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise RuntimeError(
                "The port is in use; choose another one for MASTER_PORT, the same in all "
                f"processes. Received: {address}"
            ) from error
        raise RuntimeError(
            f"Not all of the {count} processes came within {start_limit:g} s. Start all of them, "
            "with one WORLD_SIZE and MASTER_ADDR, each with a RANK of its own below WORLD_SIZE. "
            f"Received: {reason!r}, in process {rank} of {count} at {address}"
        ) from error
