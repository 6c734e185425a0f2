"""Sampling and judging on a Ray cluster, `--engine ray`: workers grant the wishes, each with a ledger of its own.

The run makes the wishes, and writes what came of them in their order, as it does alone: the shard is the same. Each request is
one worker's by its key, whoever wants to know: nothing is asked twice. That worker grants the wish that begins with it, looks
into the run's ledger before it asks the teacher (through the librarian, where that ledger holds anything), and writes to its
own; at the end all of it is brought into the run's. A worker that dies is started anew, finds in its ledger what it had been
given, and grants its wishes again. Caps, lanes and limits a minute are shared out in equal parts, one of a cap being the run's
own, for what it asks to make the wishes: all together keep them.

Every node needs the workbench, the task's file at the same path, and the teacher's key in its environment.
Not guaranteed: what was paid on a node that never comes back is asked again elsewhere.
"""

import asyncio
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from workbench import registry
from workbench.config import Config
from workbench.digest import digest, tree_digest
from workbench.errors import ConfigError, TaskError, TeacherError, WorkbenchError
from workbench.judge import bench_for
from workbench.ledger import Found, Ledger
from workbench.models import cache_dir
from workbench.stages.context import Context
from workbench.stages.grant import Granted, Granter
from workbench.stages.pool import Pool
from workbench.stages.wishes import Wish
from workbench.teachers.asker import Answer, Asker, Limits, Spent
from workbench.teachers.posted import wait_for_posts
from workbench.types import Example, Request

LEDGER = "ledger.sqlite"  # of a worker, in a folder of its own
STORE_BYTES = 2**28  # of our own cluster's memory for what is handed over: wishes, and what came of them
CONNECT_S = 5.0
ROWS = 500  # of a ledger, brought home at a time
Bringer = Callable[[str, int], Awaitable[list[dict[str, Any]]]]


class Order(NamedTuple):
    """What a worker needs to begin. `shards` is the folder of the workers' ledgers on the run's own machine."""

    found: registry.Found
    code: str
    config: Config
    limits: Limits
    mode: str
    seeds: list[Example]
    shards: Path
    run: str
    workers: int
    crew: str  # the workers' common name: no other's in the cluster


class Librarian:
    """An actor beside the run, which looks into its ledger for workers that may be far away."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = Ledger(ledger, sound=True)

    def found(self, key: str) -> Found | None:
        return self._ledger.found(key)


class SharedAsker(Asker):
    """Asks for the requests that are its worker's own; for others, the worker whose they are."""

    def __init__(self, *args: Any, worker: "Worker", **more: Any) -> None:
        super().__init__(*args, **more)
        self.worker = worker

    async def ask(self, request: Request, *, late: bool = False) -> Answer:
        number = owner(self.key(self.fitted(request)), self.worker.order.workers)
        if number == self.worker.number:
            return await super().ask(request, late=late)
        answer: Answer = await told(self.worker.peer(number).ask.remote(self.teacher.model, request, late))
        return answer

    async def found(self, key: str) -> Found | None:
        known = await super().found(key)
        if known is None and self.worker.librarian is not None:
            known = await told(self.worker.librarian.found.remote(key))
            known = known or await super().found(key)  # another who asks the same may have its answer meanwhile
        return known


class Worker:
    """An actor, known by its name to the others. `librarian` is None where the run's ledger is empty."""

    def __init__(self, number: int, order: Order, librarian: Any) -> None:
        self.number, self.order, self.librarian = number, order, librarian
        shards = order.shards if order.shards.is_dir() else cache_dir() / "shards" / digest(str(order.shards))[:8]
        self._folder = shards / str(number)
        self._ledger = Ledger(self._folder / LEDGER, run=order.run)
        self._granter: asyncio.Future[Granter] | None = None

    async def grant(self, wish: Wish) -> Granted:
        return await (await self._ready()).grant(wish)

    async def ask(self, teacher: str, request: Request, late: bool) -> Answer:
        return await (await self._ready()).pool.asker(teacher).ask(request, late=late)

    def peer(self, number: int) -> Any:
        import ray

        return ray.get_actor(name(self.order.crew, number))

    async def _ready(self) -> Granter:
        if self._granter is None:
            self._granter = asyncio.ensure_future(self._begin())
        return await asyncio.shield(self._granter)

    async def _begin(self) -> Granter:
        order = self.order
        if not order.found.file.is_file() or tree_digest([order.found.file]) != order.code:
            raise TaskError(f"{order.found.file} is not the run's own on this node", "copy the project to each node")
        task = registry.made(order.found)
        pool = Pool(order.config, self._ledger, order.limits, partial(SharedAsker, worker=self))
        await pool.prepare()
        pool.resume()
        return Granter(task, order.config, pool, order.seeds, order.mode, bench_for(task, 1))

    async def brought(self, table: str, after: int) -> list[dict[str, Any]]:
        """Rows of its ledger behind number `after`, some at a time."""
        return await _rows(self._ledger, table, after)

    async def close(self) -> Spent:
        """What it spent; a new incarnation counts what the ledger tells of the one before."""
        if self._granter is None and not self._ledger.count():
            return Spent()
        granter = await self._ready()
        await granter.aclose()
        await granter.pool.aclose()
        return granter.pool.spent

    async def remove(self) -> None:
        """Its ledger, which the run has the whole of."""
        self._ledger.close()
        shutil.rmtree(self._folder)


class Cluster:
    """Grants wishes through workers. Joins the cluster of `runtime.cluster`, or makes one of this machine's cores. Raises
    ConfigError where Ray is not installed or its cluster cannot be joined."""

    def __init__(self, context: Context, pool: Pool, seeds: list[Example], mode: str) -> None:
        self._context, self._pool, self._seeds, self._mode = context, pool, seeds, mode
        self._plain = Granter(context.task, context.config, pool, seeds, mode, None)  # knows what is asked for a wish
        self._shards = context.ledger.path.with_name("shards")
        self._shards.mkdir(exist_ok=True)
        self._ray, self._mine = _joined(context.config.runtime.cluster)
        self._cores = float(self._ray.cluster_resources().get("CPU", 1))
        self._count = context.config.runtime.workers or max(1, int(self._cores))
        self._starting: asyncio.Future[list[Any]] | None = None
        self._held: list[
            Any
        ] = []  # what workers are made with, for those that are started anew: Ray drops what nobody holds
        self._sound = True  # nobody was interrupted
        self.ahead = 2 * max(pool.concurrency, self._count)

    async def grant(self, wish: Wish) -> Granted:
        """As Granter's."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        workers = await asyncio.shield(self._starting)
        asker = self._plain.turn(wish).askers[0]
        key = asker.key(asker.fitted(self._plain.request(wish, 0)))
        try:
            granted: Granted = await told(workers[owner(key, self._count)].grant.remote(wish))
        except BaseException:
            self._sound = False
            raise
        return granted

    async def _start(self) -> list[Any]:
        """What a run that was killed left is brought home first."""
        for folder in sorted(self._shards.iterdir()):
            await wait_for_posts(folder / LEDGER)
            with Ledger(folder / LEDGER) as left:
                if left.notice:
                    self._context.say(left.notice)
                await self._bring(partial(_rows, left))
            shutil.rmtree(folder)
        ray, context, pool = self._ray, self._context, self._pool
        config, part = shared_out(context.config, pool.askers[0].limits, pool.spent, self._count)
        pool.limit(added(pool.spent, part))
        order = Order(
            registry.where(context.task), tree_digest([context.task.file]), config, part, self._mode, self._seeds,
            self._shards.resolve(), context.ledger.run, self._count, uuid.uuid4().hex,
        )  # fmt: skip
        librarian = None
        if context.ledger.count():
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            looks = ray.remote(Librarian).options(num_cpus=0, scheduling_strategy=here)
            librarian = looks.remote(context.ledger.path.resolve())
        given = ray.put(order)
        self._held = [given, librarian]
        share = min(1.0, self._cores / self._count)
        grants = ray.remote(num_cpus=share, max_restarts=-1, max_task_retries=-1)(Worker)
        return [
            grants.options(name=name(order.crew, number)).remote(number, given, librarian)
            for number in range(self._count)
        ]

    async def _bring(self, rows: Bringer) -> None:
        for table in ("calls", "failures"):
            after = 0
            while some := await rows(table, after):
                after = self._context.ledger.adopt(table, some)

    async def aclose(self) -> None:
        """The workers' ledgers into the run's, and what they spent into its account."""
        workers = await self._starting if self._starting is not None else []
        for worker in workers:
            self._pool.spent.add(await worker.close.remote())
            await self._bring(worker.brought.remote)
            if self._sound:
                await worker.remove.remote()
            self._ray.kill(worker)
        if self._mine:
            self._ray.shutdown()


async def told(answer: Awaitable[Any]) -> Any:
    """What an actor answers, or raises: without Ray's own error around it."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return await answer
    except RayTaskError as error:
        if isinstance(error.cause, WorkbenchError):
            raise error.cause from None
        raise
    except RayError as error:
        hint = "is the cluster up? The same command goes on where it was"
        raise TeacherError(f"the Ray cluster failed: {error}", hint, kind="network", fatal=True) from error


def owner(key: str, count: int) -> int:
    """The number of the worker who asks for this."""
    return int(key[:8], 16) % count


def name(crew: str, number: int) -> str:
    return f"workbench {crew} {number}"


async def _rows(ledger: Ledger, table: str, after: int) -> list[dict[str, Any]]:
    return ledger.rows(table, after, ROWS)


def shared_out(config: Config, limits: Limits, spent: Spent, count: int) -> tuple[Config, Limits]:
    """One worker's part of the lanes and of what is left of the caps; one part of the caps is kept."""
    part = replace(
        limits,
        calls=(limits.calls - spent.calls) // (count + 1),
        tokens=(limits.tokens - spent.tokens) // (count + 1),
        money=(limits.money - spent.money) / (count + 1),
    )
    return config.model_copy(update={"runtime": config.runtime.shared(count)}), part


def added(spent: Spent, part: Limits) -> Limits:
    """The limits of one who has spent so much already, and may spend its part."""
    return replace(
        part, calls=spent.calls + part.calls, tokens=spent.tokens + part.tokens, money=spent.money + part.money
    )


def _reachable(address: str) -> None:
    """Ray itself tries for minutes. Raises ConfigError where nobody listens at HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"the Ray cluster {address} cannot be reached: {error}", "is it up? `ray status` tells"
        ) from None


def _joined(address: str) -> tuple[Any, bool]:
    """The module `ray`, connected, and whether the cluster is our own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise ConfigError("--engine ray wants Ray", "pip install 'distillation-workbench[ray]'") from None
    if ray.is_initialized():
        return ray, False
    _reachable(address)
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the Ray cluster {address} cannot be joined: {error}", "is it up? `ray status` tells"
        ) from None
    return ray, not address
