"""Workers of Dask: started here, or those of a scheduler; the only module that touches it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from distributed import (
    CancelledError,
    Client,
    Future,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from distributed.scheduler import KilledWorker

from emerdiff_probe.distributed.team import ModelName, Work
from emerdiff_probe.errors import ConfigError, ProbeError, first_line

__all__ = ["on_dask"]

_AHEAD: Final = 2
"""The number of calls that a worker holds: one in progress and the next one."""

_PATIENCE: Final = 300
"""Seconds to wait for the first worker."""


class Loaded(WorkerPlugin):
    """A model that a worker has loaded once."""

    def __init__(self, model: ModelName, token: str) -> None:
        self.name = f"emerdiff-probe-{token}"
        self._named = model

    async def setup(self, worker: Any) -> None:
        """Load the model, before the worker takes any call."""
        self.model = await asyncio.to_thread(self._load, worker.name)
        # A worker can have several threads, and the model is for one at a time.
        self.turn = threading.Lock()

    def _load(self, worker: Any) -> Any:
        import torch

        further = {}
        # Of workers started here, which see all cards, each takes one.
        if isinstance(worker, int) and (cards := torch.cuda.device_count()) > 1:
            further["device"] = f"cuda:{worker % cards}"
        return self._named.load(**further)


def _called(name: str, work: Work) -> Any:
    loaded: Any = get_worker().plugins[name]
    with loaded.turn:
        return work(loaded.model)


@dataclass(frozen=True)
class Workers:
    """Hold workers of Dask that have a model.

    Attributes:
        client: Connection to their scheduler.
        plugin: Name of the plugin that has the model.
    """

    client: Client
    plugin: str

    def run(self, calls: Iterable[tuple[str, Work]]) -> Iterator[tuple[str, Any]]:
        """Yield the result of each call by its key, or the error that it ended in, as they come.

        No more calls are given away than the workers are about to take, however many there are.
        """
        left = iter(calls)
        keys: dict[Any, str] = {}
        going = as_completed(loop=self.client.loop)
        while True:
            room = _AHEAD * max(sum(self.client.nthreads().values()), 1) - len(keys)
            for key, work in islice(left, max(room, 0)):
                future = self.client.submit(
                    _called, self.plugin, work, key=f"emerdiff-{uuid.uuid4().hex}", pure=False
                )
                keys[future.key] = key
                going.add(future)
            if not keys:
                return
            future = next(going)
            yield keys.pop(future.key), _outcome(future)


def _outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        return ProbeError(
            f"the worker died {error.allowed_failures + 1} times while it was working on this, or "
            "was about to; out of memory?"
        )
    except CancelledError as error:
        raise ProbeError(
            f"the scheduler of Dask was lost ({first_line(error)}); the same call does the rest"
        ) from error
    except Exception as error:
        return error


@contextmanager
def on_dask(model: ModelName, workers: int | None, scheduler: str | None) -> Iterator[Workers]:
    """Yield workers that have a model.

    Args:
        model: Name of the model.
        workers: Number of processes to start on this machine.
        scheduler: Address of a scheduler, where none are to be started.

    Raises:
        ConfigError: There is no such scheduler, or it has no workers.
        ModelError: A worker cannot load the model.
    """
    with ExitStack() as stack:
        if scheduler is None:
            assert workers is not None
            address: Any = stack.enter_context(_started(workers))
        else:
            address = scheduler
        try:
            client = stack.enter_context(Client(address, set_as_default=False))
            client.wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            where = "this machine" if scheduler is None else f"'{scheduler}'"
            raise ConfigError(
                f"no workers of Dask on {where} ({first_line(error)}); see that the scheduler runs "
                "and has workers, which need this package, too"
            ) from error
        plugin = Loaded(model, uuid.uuid4().hex)
        client.register_plugin(plugin)
        stack.callback(client.unregister_worker_plugin, plugin.name)
        yield Workers(client, plugin.name)


@contextmanager
def _started(workers: int) -> Iterator[LocalCluster]:
    """Start processes on this machine, which share its cores."""
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        # Models take what they take; half the memory each would end a worker that one alone fits.
        memory_limit=0,
        env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)},
    )
    logger = logging.getLogger("distributed.nanny")
    before = logger.level
    try:
        yield cluster
    finally:
        # Workers that are slow to end are ended, which Dask warns of.
        logger.setLevel(logging.CRITICAL)
        try:
            cluster.close()
        finally:
            logger.setLevel(before)
