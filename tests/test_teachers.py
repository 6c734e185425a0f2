"""Teachers over a real wire: each misdeed of a server, the key's secrecy, and the few-shot blocks."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers import MISDEEDS, TeacherServer, completion
from small import KEY, here, question, sampling, teacher_at, write_task

from workbench import ledger_views, registry
from workbench.config import Config, Runtime, ShotsConfig, TeacherConfig
from workbench.declaration import Task
from workbench.errors import ConfigError, TeacherError
from workbench.ledger import Ledger
from workbench.sources.writer import InputWriter
from workbench.stages.shots import asker_for, label_request
from workbench.teachers import api, build
from workbench.teachers.api import OpenAITeacher, key_from
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler, Program
from workbench.teachers.scripted import Scripted
from workbench.types import Example, Message, Reply, Request


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return registry.load(str(write_task(tmp_path_factory.mktemp("task"))))


def complete(url: str, request: Request | None = None, timeout_s: float = 5.0) -> Reply:
    async def once() -> Reply:
        teacher = teacher_at(url, timeout_s)
        try:
            return await teacher.complete(request or question())
        finally:
            await teacher.aclose()

    return asyncio.run(once())


# --- what a server may do ---


def test_a_good_reply(server: TeacherServer) -> None:
    reply = complete(server.base_url, question("one two three", max_tokens=7, temperature=0.5))
    assert (reply.text, reply.finish) == ("[]", "stop")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 1)
    assert server.requests[0]["model"] == "fake"
    assert server.requests[0]["messages"] == [{"role": "user", "content": "one two three"}]
    assert (server.requests[0]["max_tokens"], server.requests[0]["temperature"]) == (7, 0.5)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_chat_is_sent_as_openai_s_client_sends_it(server: TeacherServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "the-organization")

    async def both() -> None:
        teacher = teacher_at(server.base_url)
        try:
            await teacher.complete(question())
            client: Any = teacher.client
            await client.chat.completions.create(**teacher.body(question()))
        finally:
            await teacher.aclose()

    asyncio.run(both())
    its_own = {"X-Stainless-Retry-Count", "X-Stainless-Read-Timeout", "Content-Length"}
    ours, theirs = ({name: each[name] for name in each.keys() - its_own} for each in server.headers)
    assert ours == theirs and ours["Openai-Organization"] == "the-organization"
    assert server.requests[0] == server.requests[1]


def test_a_lane_is_held_while_the_server_has_the_request(
    server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place at the server is another's as soon as the reply has come: nothing is read or made while it is held."""
    seen: list[str] = []

    class Lane:
        async def __aenter__(self) -> None:
            seen.append(f"held, {server.count} sent")

        async def __aexit__(self, *error: object) -> None:
            seen.append(f"free, {server.count} sent")

    async def use() -> None:
        teacher = OpenAITeacher("fake", base_url=server.base_url, key=KEY, licence="CC0-1.0", lane=Lane())
        try:
            await teacher.complete(question())
            server.script = ["400"]
            with pytest.raises(TeacherError):
                await teacher.complete(question("another"))
        finally:
            await teacher.aclose()

    def read(*given: Any) -> Reply:
        seen.append("read")
        return reply_of(*given)

    reply_of = api.reply_of
    monkeypatch.setattr(api, "reply_of", read)
    asyncio.run(use())
    assert seen == ["held, 0 sent", "free, 1 sent", "read", "held, 1 sent", "free, 2 sent"]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def hedged(server: TeacherServer, hedge_s: float, lanes: int = 2) -> Reply:
    async def once() -> Reply:
        lane = asyncio.Semaphore(lanes)
        teacher = OpenAITeacher(
            "fake", base_url=server.base_url, key=KEY, licence="", timeout_s=2.0, lane=lane, hedge_s=hedge_s
        )
        try:
            return await teacher.complete(question("one two three"))
        finally:
            held.append(lanes - lane._value)
            await teacher.aclose()

    held: list[int] = []
    try:
        return asyncio.run(asyncio.wait_for(once(), 20))
    finally:
        assert held == [0], "no lane is held any more"


def test_what_is_late_is_asked_for_once_more_and_the_first_reply_counts(server: TeacherServer) -> None:
    server.script = ["hang"]
    reply = hedged(server, 0.3)
    assert (reply.text, server.count) == ("[]", 2)
    assert 0.3 < reply.seconds < 2.0, "from the first one's leaving"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (6, 2), "both may be billed"
    assert server.requests[0] == server.requests[1]


def test_what_comes_in_time_is_asked_for_once(server: TeacherServer) -> None:
    assert hedged(server, 5.0).usage.prompt_tokens == 3
    assert server.count == 1


@pytest.mark.parametrize(
    ("script", "kind", "sent"),
    [
        (["hang", "500"], "timeout", 2),  # a failure is no reply: the first one is waited for
        (["slow", "500"], "", 2),
        (["hang", "429"], "rate", 2),  # a wish to slow down is heard in any case
    ],
)
def test_where_the_second_fails_the_first_one_tells(
    server: TeacherServer, script: list[str], kind: str, sent: int
) -> None:
    server.script = script
    try:
        assert hedged(server, 0.2).text == "[]"
        told = ""
    except TeacherError as error:
        told = error.kind
    assert (told, server.count) == (kind, sent)


def test_a_second_one_waits_for_a_lane_of_its_own(server: TeacherServer) -> None:
    server.latency_s = 0.4
    assert hedged(server, 0.1, lanes=1).usage.prompt_tokens == 3, "it never left"
    assert server.count == 1
    for deed, kind in (("500", "server"), ("hang", "timeout")):  # nor does it hold up the first one's failure
        server.script, server.latency_s = [deed], 0.4
        with pytest.raises(TeacherError) as caught:
            hedged(server, 0.1, lanes=1)
        assert caught.value.kind == kind
    assert server.count == 3


def test_what_fails_in_time_is_the_askers_to_try_again(server: TeacherServer) -> None:
    server.script = ["500"]
    with pytest.raises(TeacherError, match="HTTP 500"):
        hedged(server, 5.0)
    assert server.count == 1


def test_all_that_wait_with_a_schema_are_asked_again_without() -> None:
    """One that was made before the server was found to take none, and leaves after that."""

    class TakesNone(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = "response_format" in body
            time.sleep(0.2 if refused else 0.05)
            said = json.dumps({"error": "no schemas"} if refused else completion(body, "ok", "[]")).encode()
            self.send_response(400 if refused else 200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            """Nowhere."""

    async def use(url: str) -> list[Reply]:
        teacher = OpenAITeacher("fake", base_url=url, key=KEY, licence="", lane=asyncio.Semaphore(2))
        asked = [question(f"number {number}", json_schema={"type": "array"}) for number in range(3)]
        try:
            return await asyncio.gather(*map(teacher.complete, asked))
        finally:
            await teacher.aclose()

    with serving(TakesNone) as url:
        assert [reply.text for reply in asyncio.run(use(url))] == ["[]"] * 3


def test_a_key_that_a_refusal_spells_otherwise_is_not_told() -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = ('{"error": "no such key: ' + key.replace("/", "\\/").replace("+", "\\u002B") + '"}').encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            """Nowhere."""

    key = "abcd/efgh+ijklmnop"
    with serving(Refuses) as url:
        teacher = OpenAITeacher("fake", base_url=url, key=key, licence="")
        with pytest.raises(TeacherError) as caught:
            asyncio.run(teacher.complete(question()))
    assert "no such key: [redacted]" in str(caught.value) and "ijklmnop" not in str(caught.value)


@pytest.mark.parametrize("header", ["2", "date", "soon"])
def test_how_long_a_server_wants_to_be_left_alone(header: str) -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)
            self.send_header("Retry-After", formatdate(time.time() + 3, usegmt=True) if header == "date" else header)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nowhere."""

    with serving(Busy) as url, pytest.raises(TeacherError, match="HTTP 503") as caught:
        complete(url)
    least, most = {"2": (2, 2), "date": (1, 3), "soon": (0, 0)}[header]
    assert caught.value.kind == "server" and least <= caught.value.wait_s <= most


@pytest.mark.parametrize(
    ("deed", "kind", "fatal", "says", "hint"),
    [
        ("401", "auth", True, "refused the API key (HTTP 401)", "teacher.key_env"),
        ("403", "auth", True, "refused the API key (HTTP 403)", "teacher.key_env"),
        ("404", "refused", True, "refused the request", "teacher.model"),
        ("400", "refused", False, "refused the request", "teacher.model"),
        ("422", "refused", False, "refused the request", "teacher.model"),
        ("429", "rate", False, "slow down (HTTP 429)", "runtime.concurrency"),
        ("500", "server", False, "failed (HTTP 500)", "later"),
        ("503", "server", False, "failed (HTTP 503)", "later"),
        ("hang", "timeout", False, "did not answer in time", "runtime.timeout_s"),
        ("drip", "timeout", False, "did not answer in time", "runtime.timeout_s"),
        ("reset", "network", False, "cannot be reached", "is the server up"),
        ("cut", "network", False, "cannot be reached", "is the server up"),
        ("half", "bad_reply", False, "not JSON", ""),
        ("no-choices", "bad_reply", False, "no choices", ""),
        ("null-choices", "bad_reply", False, "no choices", ""),
        ("html", "bad_reply", False, "not JSON", ""),
        ("text", "bad_reply", False, "not JSON", ""),
        ("list", "bad_reply", False, "no choices", ""),
        ("empty", "bad_reply", False, "empty", ""),
        ("null", "bad_reply", False, "empty", ""),
        ("no-content", "bad_reply", False, "empty", ""),
        ("odd-choices", "bad_reply", False, "no chat completion", ""),
        ("parts", "bad_reply", False, "no text", ""),
    ],
)
def test_what_a_server_may_do(
    server: TeacherServer, deed: str, kind: str, fatal: bool, says: str, hint: str
) -> None:  # fmt: skip
    server.script = [deed]
    with pytest.raises(TeacherError) as caught:
        complete(server.base_url, timeout_s=0.3 if deed in {"hang", "drip"} else 5.0)
    assert (caught.value.kind, caught.value.fatal) == (kind, fatal)
    assert says in str(caught.value)
    assert hint in caught.value.hint
    assert KEY not in str(caught.value) + caught.value.hint
    assert caught.value.wait_s == (1.0 if deed == "429" else 0.0)
    assert server.count == 1, "the client makes no retries of its own"


@pytest.mark.parametrize("deed", ["no-usage", "odd-usage"])
def test_a_server_that_counts_no_tokens_is_no_error(server: TeacherServer, deed: str) -> None:
    server.script = [deed]
    assert complete(server.base_url).usage.prompt_tokens == 0


def test_a_server_that_does_not_say_why_it_ended_has_ended(server: TeacherServer) -> None:
    server.script = ["no-finish"]
    assert complete(server.base_url).finish == "stop"


def test_a_server_that_drips_is_waited_for(server: TeacherServer) -> None:
    server.script = ["slow"]
    assert complete(server.base_url, timeout_s=10).seconds > 0.9


def test_a_refusal_and_a_reply_cut_by_its_length_are_replies(server: TeacherServer) -> None:
    server.script = ["refusal", "length"]
    assert complete(server.base_url).finish == "refused"
    assert complete(server.base_url).finish == "length"


def test_a_server_that_refuses_schemas_is_asked_without(server: TeacherServer) -> None:
    """Some servers know no JSON schemas, some want an object at the root: one refusal, then never again."""

    async def twice() -> None:
        teacher = teacher_at(server.base_url, 5.0)
        for k in range(2):
            await teacher.complete(question("one two", k=k, json_schema={"type": "array"}))
        await teacher.aclose()

    server.script = ["400"]
    asyncio.run(twice())
    assert ["response_format" in body for body in server.requests] == [True, False, False]


def test_every_misdeed_is_tried() -> None:
    marks = {m.name: m for m in test_what_a_server_may_do.pytestmark}  # type: ignore[attr-defined]
    tried = {case[0] for case in marks["parametrize"].args[1]}
    assert tried | {"no-usage", "odd-usage", "no-finish", "refusal", "length", "slow"} == set(MISDEEDS)


def test_nobody_listens(tmp_path: Path) -> None:
    with TeacherServer(tmp_path / "log.jsonl") as gone:
        url = gone.base_url
    with pytest.raises(TeacherError, match="cannot be reached") as caught:
        complete(url)
    assert (caught.value.kind, caught.value.fatal) == ("network", False)


def test_the_schema_is_sent_where_the_server_takes_it(server: TeacherServer, task: Task, tmp_path: Path) -> None:
    complete(server.base_url, question(json_schema={"type": "array"}))
    complete(server.base_url, question())
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert "response_format" not in server.requests[1]
    made, row = labeler(task, "fixed"), example(task, "open maps")
    for constrained, url, asked in ((None, server.base_url, True), (None, "", False), (False, server.base_url, False)):
        config = Config(teacher=TeacherConfig(base_url=url, constrained=constrained))
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            sent = asker_for(Scripted(str), ledger, config).fitted(label_request(made, row, config))
        assert sent.json_schema == (task.output.schema() if asked else None)


# --- the key ---


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch, server: TeacherServer) -> None:
    monkeypatch.delenv("WORKBENCH_TEST_KEY", raising=False)
    config = TeacherConfig(model="m", base_url="https://api.example.com/v1", key_env="WORKBENCH_TEST_KEY")
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("WORKBENCH_TEST_KEY", value)
        with pytest.raises(TeacherError, match="WORKBENCH_TEST_KEY holds no API key") as caught:
            build_teacher(config, Runtime())
        assert (caught.value.kind, caught.value.fatal) == ("auth", True)
        assert "teacher.key_env" in caught.value.hint
    local = config.model_copy(update={"base_url": server.base_url})
    asyncio.run(build_teacher(local, Runtime()).complete(question()))  # a server on this machine needs none
    assert server.headers[-1]["Authorization"] == "Bearer local"
    monkeypatch.setenv("WORKBENCH_TEST_KEY", KEY)
    assert key_from("WORKBENCH_TEST_KEY") == KEY
    made = build_teacher(config, Runtime())
    assert made.model == "m@https://api.example.com/v1"
    assert KEY not in made.model
    asyncio.run(made.aclose())


def test_the_key_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the ledger, the events, the lock, the settings, an artifact or on the terminal, though the server says it."""
    write_task(tmp_path)
    monkeypatch.setenv("WORKBENCH_TEST_KEY", KEY)
    with TeacherServer(tmp_path / "log.jsonl", script=["ok", "400", "422", "500", "half"]) as server:
        arguments = sampling(server.base_url, "sample.inverse=6", "teacher.key_env=WORKBENCH_TEST_KEY")
        done = here(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        server.script = ["401"] * 50
        refused = here(tmp_path, *arguments, "--set", "sample.seed=1")
    assert refused.returncode == 1
    assert "refused the API key (HTTP 401)" in refused.stderr
    assert "next:  set the key" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert KEY not in done.stdout + done.stderr + refused.stdout + refused.stderr
    with Ledger(tmp_path / ".workbench" / "ledger.sqlite") as ledger:
        assert len(ledger_views.read(ledger.path).failures) >= 4
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"events.jsonl", "lock.json", "config.toml", "candidates.jsonl"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


# --- few-shot blocks ---


def example(task: Task, text: str) -> Example:
    return task.example({"text": text}, split="dev")


def labeler(task: Task, mode: str, **options: int) -> Labeler:
    return Labeler(task, task.examples("seed"), mode, ShotsConfig.model_validate(options))


def test_messages_are_plain_turns(task: Task) -> None:
    made = Program("request -> answer", "Be brief.").messages([{"request": "a", "answer": "b"}], {"request": "c"})
    assert made == (
        Message(role="system", content="Be brief."), Message(role="user", content="a"),
        Message(role="assistant", content="b"), Message(role="user", content="c"),
    )  # fmt: skip
    messages = labeler(task, "fixed").messages(example(task, "open maps"))
    assert [m.role for m in messages] == ["system", *["user", "assistant"] * ((len(messages) - 2) // 2), "user"]
    assert "Turn what is said into calls." in messages[0].content
    assert "open_app(app: text) Open an app." in messages[0].content
    assert messages[-1].content == "open maps"
    assert all("[[ ##" not in message.content for message in messages), "none of dspy's field markers"
    assert all(isinstance(json.loads(m.content), list) for m in messages if m.role == "assistant")


def test_what_the_writer_shows_and_asks(task: Task) -> None:
    writer = InputWriter(task, task.examples("seed"))
    answer = [{"name": "set_timer", "arguments": {"minutes": 5, "label": "tea"}}]
    messages = writer.messages(answer, "about 5 words, lower case", {})
    wanted = f"answer: {task.output.dump(answer)}\nstyle: about 5 words, lower case"
    assert messages[-1].content == wanted
    assert messages[:-1] == writer.messages([], "short", {})[:-1], "the same shots for all: a server reads them once"
    shown = [m.content for m in messages if m.role == "assistant"]
    assert shown[:4] == ["open the calculator app for me", "ring Anna", "timer 10 minutes", "tell me a joke"]
    assert writer.read(' request: "set a tea timer" ') == "set a tea timer"


def test_styles_are_drawn_one_of_each_knob(task: Task) -> None:
    def drawn(styles: Any) -> set[str]:
        writer = InputWriter(replace(task, styles=styles), task.examples("seed"))
        rng = random.Random(0)
        return {", ".join(writer.style(rng).split(", ")[2:]) for _ in range(200)}

    assert drawn(()) == {""}
    assert drawn(("curt", "polite")) == {"", "curt", "polite"}
    knobs = {"voice": ("curt", "polite"), "noise": ("a typo",)}
    assert drawn(knobs) == {"", "curt", "polite", "a typo", "curt, a typo", "polite, a typo"}


def test_a_program_that_dspy_saved_takes_the_place_of_the_plain_one(task: Task, tmp_path: Path) -> None:
    import dspy

    optimized = dspy.Predict(dspy.Signature("request -> answer", "Think of the phone, then answer in JSON."))
    optimized.demos = [dspy.Example(request="open mail", answer="[]", augmented=True)]
    optimized.save(tmp_path / "program.json")
    made = Labeler(task, task.examples("seed"), "program", ShotsConfig(program=str(tmp_path / "program.json")))
    assert made.messages(example(task, "open maps")) == (
        Message(role="system", content="Think of the phone, then answer in JSON."),
        Message(role="user", content="open mail"),
        Message(role="assistant", content="[]"),
        Message(role="user", content="open maps"),
    )
    (tmp_path / "other.json").write_text('{"demos": 3}')
    for name in ("other.json", "none.json"):
        with pytest.raises(ConfigError, match="is no saved dspy"):
            Labeler(task, [], "program", ShotsConfig(program=str(tmp_path / name)))


def test_fixed_shots_are_the_same_for_all(task: Task) -> None:
    made = labeler(task, "fixed", fixed_per_group=1)
    shots = made.shots(example(task, "open maps"))
    assert shots == made.shots(example(task, "call Zoe"))
    groups = sorted(task.output.group(seed.target) for seed in shots)
    assert groups == ["call_contact", "none", "open_app", "set_timer"]


def test_nearest_shots_end_with_the_nearest(task: Task) -> None:
    shots = labeler(task, "nearest", nearest=3).shots(example(task, "timer 12 minutes"))
    assert len(shots) == 3
    assert shots[-1].input["text"] == "timer 10 minutes"


def test_group_shots_share_their_prefix(task: Task) -> None:
    made = labeler(task, "group")
    one, two = (made.messages(example(task, text)) for text in ("timer 12 minutes", "count down thirty minutes"))
    other = made.messages(example(task, "tell me a story"))
    assert one[:-1] == two[:-1], "of one group all but the input"
    assert one[:9] == other[:9], "of all groups the instructions and one seed of each group"
    assert one[9:-1] != other[9:-1]
    group = [seed for seed in task.examples("seed") if task.output.group(seed.target) == "set_timer"]
    assert {seed.id for seed in group} <= {seed.id for seed in made.shots(example(task, "timer 12 minutes"))}
    assert len({seed.id for seed in made.shots(example(task, "timer 12 minutes"))}) == 3 + len(group), "each once"


def test_mixed_shots_share_one_of_each_group_and_end_with_the_nearest(task: Task) -> None:
    made = labeler(task, "mixed", mixed=2)
    one, other = made.shots(example(task, "timer 12 minutes")), made.shots(example(task, "tell me a story"))
    assert one[:4] == other[:4]
    assert len({task.output.group(seed.target) for seed in one[:4]}) == 4
    assert len(one) == 6
    assert one[-1].input["text"] == "timer 10 minutes"
    assert one[4:] != other[4:]


@pytest.mark.parametrize("mode", ["fixed", "nearest", "group", "mixed"])
def test_a_seed_never_sees_itself(task: Task, mode: str) -> None:
    made = labeler(task, mode, fixed_per_group=5, nearest=12)
    for seed in task.examples("seed"):
        shown = [message.content for message in made.messages(seed)[:-1]]
        assert seed.input["text"] not in shown
        assert len(shown) > 4


def test_the_default_config_names_the_default_key() -> None:
    assert Config().teacher.key_env == "OPENAI_API_KEY"


# --- which engine runs a GGUF ---


@pytest.mark.parametrize(
    ("engine", "bf16", "wanted"),
    [("auto", True, "TransformersTeacher"), ("auto", False, "EmbeddedTeacher"), ("llama.cpp", True, "EmbeddedTeacher"),
     ("torch", False, "TransformersTeacher")],
)  # fmt: skip
def test_the_engine_of_a_gguf(
    engine: str, bf16: bool, wanted: str, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "multiplies_bf16", lambda: bf16)
    config = TeacherConfig.model_validate({"model": "smollm2-135m-instruct", "engine": engine})
    teacher = build_teacher(config, Runtime())
    assert type(teacher).__name__ == wanted
    assert teacher.licence == "Apache-2.0"
    assert ("in torch" in teacher.model) == (wanted == "TransformersTeacher"), "answers of one are not the other's"


def test_a_redirect_is_followed(server: TeacherServer) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", f"{server.base_url}/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nowhere."""

    with serving(Elsewhere) as url:
        assert complete(url).text == "[]"
    assert server.count == 1
