"""Python from a model, executed: each property that the sandbox promises is attacked."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from workbench.validators import runs

from workbench.sandbox import CodeError, PythonSandbox
from workbench.types import Example, Judged

DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(scope="module")
def sandbox():
    made = PythonSandbox(seconds=0.5, memory_mb=16)
    yield made
    made.close()


def tried(sandbox, body):
    return sandbox.call(f"def f():\n    {body}\n", "f", [[]])[0]


def test_a_function_gives_something_for_each_list_of_arguments(sandbox):
    assert sandbox.call(DOUBLE, "double", [[1], [2.5], ["ab"], [[1, None]]]) == [2, 5.0, "abab", [1, None, 1, None]]
    assert sandbox.call("import math\nroot = lambda x: {'root': math.sqrt(x)}", "root", [[9]]) == [{"root": 3.0}]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def double(x) return x", "SyntaxError"),
        ("def twice(x): return x", "NameError"),
        ("double = 2", "TypeError"),
        ("def double(): return 1", "TypeError"),
        ("def double(x): return x / 0", "ZeroDivisionError"),
        ("raise ValueError('not today')", "not today"),
        ("", "NameError"),
        ("import numpy", "numpy"),
    ],
)
def test_what_gives_nothing_is_told(sandbox, code, says):
    with pytest.raises(CodeError, match=says):
        sandbox.call(code, "double", [[1]])
    assert sandbox.call(DOUBLE, "double", [[1]]) == [2], "nothing is left of it"


@pytest.mark.parametrize(
    "body",
    [
        "return open('{folder}/in.txt').read()",
        "return open('{folder}/out.txt', 'w').write('x')",
        "import pathlib; return pathlib.Path('{folder}/in.txt').read_text()",
        "import pathlib; pathlib.Path('{folder}/in.txt').unlink()",
        "import os; return os.listdir('{folder}')",
        "import os; return os.environ['OPENAI_API_KEY']",
        "import os; return os.getenv('OPENAI_API_KEY')",
        "import os; os.system('touch {folder}/out.txt')",
        "import socket; return socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; return urllib.request.urlopen('http://127.0.0.1:9')",
        "import subprocess; return subprocess.run(['touch', '{folder}/out.txt'])",
        "import ctypes; return ctypes.CDLL(None)",
        "return __import__('os').fork()",
        "return ().__class__.__base__.__subclasses__()[0].__init__.__globals__",
    ],
)
def test_no_file_no_network_no_process_no_secret(sandbox, tmp_path, monkeypatch, body):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / "in.txt").write_text("in")
    made = PythonSandbox(seconds=0.5)
    with pytest.raises(CodeError):
        tried(made, body.format(folder=tmp_path))
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    assert (tmp_path / "in.txt").read_text() == "in"


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "return sum(range(10**12))",
        "return len([0 for a in range(10**5) for b in range(10**5)])",
        "return 7 ** (7 ** 9)",
    ],
)
def test_time_is_bounded(sandbox, body):
    began = time.monotonic()
    with pytest.raises(CodeError, match=r"Timeout|more than|memory|Memory"):
        tried(sandbox, body)
    assert time.monotonic() - began < 7
    assert sandbox.call(DOUBLE, "double", [[1]]) == [2]


def test_sleep_takes_no_time(sandbox):
    began = time.monotonic()
    assert tried(sandbox, "import time; time.sleep(3600); return 1") == 1
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "body",
    [
        "return 'x' * 10**9",
        "return [0] * 10**9",
        "rows = []\n    while True: rows.append('x' * 10**6)",
        "return 1 << 10**10",
    ],
)
def test_memory_is_bounded(sandbox, body):
    with pytest.raises(CodeError, match=r"[Mm]emory|Overflow|Timeout"):
        tried(sandbox, body)
    assert sandbox.call(DOUBLE, "double", [[1]]) == [2]


def test_depth_and_speech_are_bounded(sandbox, capfd):
    with pytest.raises(CodeError, match="Recursion"):
        tried(sandbox, "return f()")
    assert tried(sandbox, "print('said for nobody'); return 1") == 1
    with pytest.raises(CodeError):
        tried(sandbox, "while True: print('x' * 1000)")
    assert capfd.readouterr().out == ""


def test_a_process_that_was_killed_is_replaced(sandbox):
    sandbox.call(DOUBLE, "double", [[1]])
    with sandbox._pool.checkout() as session:
        process = session.worker_pid
        assert process
    os.kill(process, signal.SIGKILL)
    time.sleep(0.2)
    assert sandbox.call(DOUBLE, "double", [[1]]) == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_running(sandbox):
    made = PythonSandbox()
    made.call(DOUBLE, "double", [[1]])
    with made._pool.checkout() as session:
        process = session.worker_pid
    made.close()
    made.close()
    assert not Path(f"/proc/{process}").exists()


def test_what_is_drawn_and_what_time_it_is_are_always_the_same(sandbox):
    body = "import random; from datetime import datetime; return [random.random(), str(datetime.now())]"
    another = PythonSandbox()
    assert tried(sandbox, body) == tried(another, body)
    another.close()


def test_its_version_is_in_a_stages_key():
    names = [file.name for file in runs("code", "total", ROWS).files]
    assert names == ["python.py", "METADATA"]


RIGHT = "def total(rows):\n    return sum(row['price'] * row['count'] for row in rows)\n"
ROWS = [[[{"price": 0.1, "count": 3}]], [[]]]


@pytest.mark.parametrize(
    ("code", "target", "outcome", "reason"),
    [
        (RIGHT, None, "pass", ""),
        ("def total(rows):\n    return rows[0]", None, "fail", "the code fails: IndexError"),
        ("def total(rows):\n    return 0.3 * len(rows)", RIGHT, "pass", ""),  # 0.30000000000000004 is 0.3
        ("def total(rows):\n    return 0.3", RIGHT, "fail", "total([]) gives 0.3, the target's 0"),
        ("def total(rows):\n    return float('nan')", "total = lambda rows: float('nan')", "pass", ""),
        ("def total(rows):\n    return 10 ** 5000", RIGHT, "fail", "cannot be compared"),
        ("def total(rows):\n    x = []\n    for _ in range(900): x = [x]\n    return x", RIGHT, "fail", ""),
        ("import sys\ndef total(rows):\n    return sys.version_info", RIGHT, "fail", "gives "),
        ("def total(rows):\n    return {0.1 + 0.2}", "total = lambda rows: {0.3}", "pass", ""),
        (None, RIGHT, "fail", "it is no text"),
        ("def total(rows):\n    return [1] * 100", RIGHT, "fail", "gives [1, 1, 1"),
    ],
)
def test_code_is_compared_by_what_it_gives(code, target, outcome, reason):
    validator = runs("code", "total", ROWS, seconds=0.5)
    row = Example(id="1", input={"text": "?"}, target=target and {"code": target}, split="new")
    check = validator.judge(Judged(row, code, {"code": code}), None)
    assert check.outcome == outcome
    assert reason in check.reason
    assert len(check.reason) < 300


def test_a_target_that_fails_is_the_tasks_fault():
    row = Example(id="1", input={"text": "?"}, target={"code": "total ="}, split="new")
    with pytest.raises(CodeError):
        runs("code", "total", ROWS).judge(Judged(row, RIGHT, {"code": RIGHT}), None)


def test_what_it_needs_is_told(monkeypatch):
    with pytest.raises(ValueError, match="name at least one"):
        runs("code", "total", [])
    monkeypatch.setattr("workbench.validators.execution.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"distillation-workbench\[code\]"):
        runs("code", "total", [[1]])
