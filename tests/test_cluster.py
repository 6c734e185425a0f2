"""Sampling on a real Ray cluster of this machine: the shard is that of the local engine, whatever happens to a worker."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
from servers import TeacherServer
from small import command, environment, here, question, sampling, teacher_at, workbench, write_task
from test_kill import shard

from workbench.config import Config
from workbench.ledger import Ledger
from workbench.stages.cluster import SharedAsker, shared_out
from workbench.teachers.asker import Limits, Spent

NODES = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of three nodes, a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(NODES - 1):
            made.add_node(num_cpus=1, object_store_memory=2**27)
        yield made.address
    finally:
        made.shutdown()


def on_ray(address: str) -> list[str]:
    return ["--engine", "ray", "--set", f"runtime.cluster={address}"]


def sampled(project: Path) -> dict[str, str]:
    """What the files of the sample artifact say: a digest that is another one does not tell why."""
    (folder,) = (path.parent for path in project.glob(".workbench/store/sample/*/*/funnel.json"))
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "manifest.json"}


def test_the_shard_is_that_of_the_local_engine(cluster: str, tmp_path: Path) -> None:
    local, ray = tmp_path / "local", tmp_path / "ray"
    write_task(local)
    write_task(ray)
    with TeacherServer(tmp_path / "log") as server:
        assert here(local, *sampling(server.base_url)).returncode == 0
        asked, since = sorted(seen.question for seen in server.seen() if seen.event == "received"), server.count
        done = workbench(ray, *sampling(server.base_url), *on_ray(cluster))
        assert done.returncode == 0, done.stdout + done.stderr
        received = [seen.question for seen in server.seen() if seen.event == "received"][since:]
        assert sorted(received) == asked, "each question once, whichever worker had it"
        assert shard(ray) == shard(local)
        with Ledger(ray / ".workbench" / "ledger.sqlite") as ledger:
            assert ledger.count() == len(asked), "all is in the run's own ledger"
        assert not list((ray / ".workbench" / "shards").iterdir())

        again = workbench(ray, *sampling(server.base_url), *on_ray(cluster), "--force", "sample")
        assert again.returncode == 0, again.stdout + again.stderr
        assert server.count - since == len(asked), "and is found there by the workers"
        assert "select: skipped, nothing changed" in again.stdout


def test_a_pool_of_teachers_is_the_same_pool_there(cluster: str, tmp_path: Path) -> None:
    shards, counts, told = [], [], []
    with TeacherServer(tmp_path / "log") as server, TeacherServer(tmp_path / "other") as other:
        pool = [{"model": "other", "base_url": other.base_url, "groups": ["call_contact"], "votes": True}]
        for name, more in (("local", []), ("ray", on_ray(cluster))):
            folder = tmp_path / name
            write_task(folder)
            (folder / "pool.toml").write_text(tomli_w.dumps({"pool": {"teachers": pool}}))
            before = server.count, other.count
            done = workbench(folder, *sampling(server.base_url, "sample.inverse=30"), "--config", "pool.toml", *more)
            assert done.returncode == 0, done.stdout + done.stderr
            shards.append(shard(folder))
            told.append(sampled(folder))
            counts.append((server.count - before[0], other.count - before[1]))
    assert told[0] == told[1]
    assert shards[0] == shards[1]
    assert counts[0] == counts[1] and min(counts[0]) > 0


def test_two_who_ask_the_same_share_a_call_though_the_librarian_is_slow(tmp_path: Path) -> None:
    """The second one's word that nothing is known may come when the first has its answer already."""
    words = iter((0.0, 0.5))

    async def unknown(key: str) -> None:
        await asyncio.sleep(next(words))

    worker = SimpleNamespace(
        number=0,
        order=SimpleNamespace(workers=1),
        librarian=SimpleNamespace(found=SimpleNamespace(remote=unknown)),
    )

    async def both(url: str) -> Spent:
        teacher = teacher_at(url)
        asker = SharedAsker(teacher, Ledger(tmp_path / "ledger.sqlite"), worker=worker)
        first, second = await asyncio.gather(asker.ask(question()), asker.ask(question()))
        assert first == second
        await teacher.aclose()
        return asker.spent

    with TeacherServer(tmp_path / "log") as server:
        spent = asyncio.run(both(server.base_url))
        assert server.count == 1
    assert (spent.calls, spent.sent) == (1, 1)


def workers() -> dict[int, str]:
    """The processes of Ray's workers that grant wishes, by what they are called."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text().split("\0")[0]
        except OSError:
            continue
        if title.startswith("ray::") and "Worker" in title:
            found[int(folder.name)] = title
    return found


def test_a_worker_killed_in_the_middle_changes_nothing(cluster: str, tmp_path: Path) -> None:
    local, ray = tmp_path / "local", tmp_path / "ray"
    write_task(local)
    write_task(ray)
    with TeacherServer(tmp_path / "log", latency_s=0.1) as server:
        arguments = [*sampling(server.base_url), "--set", "runtime.concurrency=6"]
        assert here(local, *arguments).returncode == 0
        asked, since = sorted(seen.question for seen in server.seen() if seen.event == "received"), server.count
        out = (tmp_path / "out.txt").open("w+")
        run = subprocess.Popen(
            command(*arguments, *on_ray(cluster)), cwd=ray, env=environment(), stdout=out, stderr=subprocess.STDOUT
        )
        killed = 0
        for share, many in ((0.4, 1), (0.7, NODES)):  # one, then all of them at once
            while server.count - since < share * len(asked) and run.poll() is None:
                time.sleep(0.01)
            at_work = sorted(workers())
            assert at_work, "the workers are there"
            for one in at_work[:many]:
                os.kill(one, signal.SIGKILL)
            killed += 1
        assert run.wait(timeout=120) == 0, (tmp_path / "out.txt").read_text()
        received = [seen.question for seen in server.seen() if seen.event == "received"][since:]
    assert killed == 2
    assert sorted(received) == asked, "what was under way is brought home by the post, and not asked again"
    assert shard(ray) == shard(local)


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    write_task(tmp_path)
    with TeacherServer(tmp_path / "log") as server:
        began = time.monotonic()
        done = here(tmp_path, *sampling(server.base_url), *on_ray("127.0.0.1:9"))
        assert server.count == 0
    assert done.returncode == 1
    assert "the Ray cluster 127.0.0.1:9 cannot be reached" in done.stderr
    assert time.monotonic() - began < 30


def test_the_parts_of_all_workers_keep_the_caps() -> None:
    spent = Spent(calls=10, tokens=1000, money=0.5)
    limits = Limits(calls=100, tokens=10_000, money=2.0, minutes=5)
    config, part = shared_out(Config.model_validate({"runtime": {"concurrency": 16}}), limits, spent, 4)
    assert spent.calls + 5 * part.calls <= limits.calls
    assert spent.tokens + 5 * part.tokens <= limits.tokens
    assert spent.money + 5 * part.money == pytest.approx(limits.money)
    assert part.minutes == limits.minutes
    assert config.runtime.concurrency == 4
