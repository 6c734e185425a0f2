"""SQL from a model, executed: each property that the sandbox promises is attacked."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from workbench.validators import executes

from workbench.sandbox import QueryError, SqlSandbox
from workbench.types import Example, Judged

SCRIPT = """
create table shops (id integer primary key, town text, sales real);
insert into shops values (1, 'Bern', 10.5), (2, 'Chur', 7), (3, 'Bern', 1);
"""
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) "


@pytest.fixture(scope="module")
def sandbox():
    made = SqlSandbox(SCRIPT, seconds=0.5, memory_mb=16, rows=100)
    yield made
    made.close()


def test_a_query_gives_its_rows(sandbox):
    assert sandbox.run("select town, sum(sales) from shops group by town order by town") == [
        ("Bern", 11.5),
        ("Chur", 7.0),
    ]


@pytest.mark.parametrize(
    "query", ["select nothing from shops", "selec 1", "select 1; drop table shops", "select ?", "", "-- shops", ";"]
)
def test_what_is_no_query_is_told(sandbox, query):
    with pytest.raises(QueryError, match=r"no such column|syntax|one statement|bindings|asks for nothing"):
        sandbox.run(query)


@pytest.mark.parametrize(
    "query",
    [
        "insert into shops values (4, 'Basel', 1)",
        "update shops set sales = 0",
        "delete from shops",
        "drop table shops",
        "create temp table mine as select 1",
        "pragma query_only = off",
        "pragma hard_heap_limit = 0",
        "begin",
        "vacuum into '{folder}/out.db'",
        "attach '{folder}/out.db' as other",
        "select load_extension('{folder}/evil.so')",
        "select writefile('{folder}/out.txt', 'x')",
        "select readfile('/etc/passwd')",
        "select * from pragma_database_list",
    ],
)
def test_nothing_is_written_and_no_file_is_read(sandbox, tmp_path, query):
    with pytest.raises(
        QueryError, match=r"not authorized|authorization denied|no such function|prohibited|no such table"
    ):
        sandbox.run(query.format(folder=tmp_path))
    assert not any(tmp_path.iterdir())
    assert sandbox.run("select count(*), sum(sales) from shops") == [(3, 18.5)]


@pytest.mark.parametrize(
    "query",
    [
        ENDLESS + "select count(*) from n",
        "select count(*) from " + ", ".join(f"(select 1 union select 2 union select 3) a{n}" for n in range(24)),
    ],
)
def test_time_is_bounded(sandbox, query):
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"more than 0.5 seconds"):
        sandbox.run(query)
    assert time.monotonic() - began < 4
    assert sandbox.run("select 1") == [(1,)]  # and it goes on


def test_a_process_that_hangs_is_replaced(sandbox):
    sandbox.run("select 1")
    os.kill(sandbox._process.pid, signal.SIGSTOP)
    with pytest.raises(QueryError, match=r"more than 3.5 seconds"):
        sandbox.run("select 1")
    assert sandbox.run("select 1") == [(1,)]


@pytest.mark.parametrize(
    "query",
    [
        "select hex(zeroblob(500000000))",
        ENDLESS + "select group_concat(i) from n",
        ENDLESS + "select i, printf('%.*c', 100000, 'x') s from n order by s desc, i",
        "select printf('%.*c', 1000000, 'x') from (values (1), (2), (3), (4), (5), (6), (7), (8), (9)) a, shops",
    ],
)
def test_memory_and_what_is_given_are_bounded(query):
    sandbox = SqlSandbox(SCRIPT, seconds=1.5, memory_mb=8, rows=100)
    try:
        with pytest.raises(QueryError, match=r"too big|memory|too much|more than"):
            sandbox.run(query)
        assert sandbox.run("select 1") == [(1,)]
    finally:
        sandbox.close()


def test_the_database_itself_is_not_counted_as_a_querys_memory():
    large = (
        SCRIPT + "create table pad as with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) "
    )
    made = SqlSandbox(large + "select printf('%.*c', 100000, 'x') x from n;", memory_mb=8)
    assert made.run("select count(*), min(length(x)) from pad") == [(300, 100000)]
    made.close()


def test_a_process_that_died_while_nobody_asked_is_replaced(sandbox):
    sandbox.run("select 1")
    os.kill(sandbox._process.pid, signal.SIGKILL)
    sandbox._process.wait()
    assert sandbox.run("select 2") == [(2,)]


def test_no_more_rows_than_allowed(sandbox):
    with pytest.raises(QueryError, match="more than 100 rows"):
        sandbox.run(ENDLESS + "select i from n limit 101")
    assert len(sandbox.run(ENDLESS + "select i from n limit 100")) == 100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_can_open_nothing_and_knows_no_key(sandbox, monkeypatch):
    """Whatever SQLite may have forgotten: no file, no socket, no variable of ours."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    made = SqlSandbox(SCRIPT)
    made.run("select 1")
    pid = made._process.pid
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    limits = {line[:25].strip(): line[26:].split()[0] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max open files"] == "3"
    assert limits["Max file size"] == "0"
    made.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_script_that_fails_is_the_tasks_fault():
    with pytest.raises(ValueError, match="no such table"):
        SqlSandbox("insert into missing values (1)").run("select 1")


def test_json_goes_both_ways(sandbox):
    said = "it's \u2028 ünder\n🙂"
    assert sandbox.run("select '" + said.replace("'", "''") + "', null, 1e300, x'00ff'") == [
        (said, None, 1e300, "00ff")
    ]


@pytest.fixture(scope="module")
def validator(tmp_path_factory):
    file = tmp_path_factory.mktemp("sql") / "shops.sql"
    file.write_text(SCRIPT)
    return executes("sql", file)


BY_TOWN = "select town, sum(sales) from shops group by town"


@pytest.mark.parametrize(
    ("sql", "target", "outcome", "reason"),
    [
        (BY_TOWN, None, "pass", ""),
        ("select * from stores", None, "fail", "no such table: stores"),
        ("drop table shops", None, "fail", "not authorized"),
        (BY_TOWN + " order by town desc", BY_TOWN, "pass", ""),  # the target leaves the order open
        (BY_TOWN + " order by town desc", BY_TOWN + " order by town", "fail", "2 rows, the first ('Chur', 7.0)"),
        ("select town, total(sales) + 1e-9 from shops group by 1", BY_TOWN, "pass", ""),
        ("select distinct town from shops", "select town from shops", "fail", "the target's query 3 rows"),
        ("select max(sales) from shops", "select 10.5", "pass", ""),
        ("select min(sales) from shops", "select 10.5", "fail", "it gives (1.0,), the target's query (10.5,)"),
    ],
)
def test_queries_are_compared_by_what_they_give(validator, sql, target, outcome, reason):
    row = Example(id="1", input={"text": "?"}, target=target and {"sql": target}, split="new")
    check = validator.judge(Judged(row, sql, {"sql": sql}), None)
    assert check.outcome == outcome
    assert reason in check.reason


def test_a_target_that_fails_is_the_tasks_fault(validator):
    row = Example(id="1", input={"text": "?"}, target={"sql": "select"}, split="new")
    with pytest.raises(QueryError):
        validator.judge(Judged(row, "select 1", {"sql": "select 1"}), None)


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"shops\.sql"):
        executes("sql", tmp_path / "shops.sql")
