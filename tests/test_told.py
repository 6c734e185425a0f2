"""What a teacher behind an API tells of its tokens as it writes them: brought home, kept, and learned from."""

import asyncio
import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from servers import TeacherServer
from small import TASK, here, write_task

from workbench.config import load_config
from workbench.edge import LlamaServer
from workbench.errors import ConfigError, LogitError, StoreError, TeacherError
from workbench.ledger import Ledger
from workbench.logits import LogitWriter
from workbench.stages.context import read_json, read_jsonl
from workbench.students.divergence import Blend
from workbench.students.load import load_tokenizer
from workbench.students.pieces import END, Pieces
from workbench.students.pieces import FILE as PIECES
from workbench.students.settings import Captured, Pair
from workbench.students.taught import Taught, end_of_turn, name_of
from workbench.teachers.api import OpenAITeacher, reply_of
from workbench.teachers.asker import Asker
from workbench.teachers.whitebox import TransformersTeacher
from workbench.types import Message, Reply, Request, Row, TokenLogprobs

QUESTION = (Message(role="user", content="Write the word crème brûlée, and nothing else."),)


def ask(url: str, model: str, request: Request) -> Reply:
    async def once() -> Reply:
        teacher = OpenAITeacher(model, base_url=url, key="local", licence="")
        try:
            return await teacher.complete(request)
        finally:
            await teacher.aclose()

    return asyncio.run(once())


def told(*tokens: str, top: int = 2) -> tuple[TokenLogprobs, ...]:
    others = [(f"other {place}", -2.0 - place) for place in range(top - 1)]
    return tuple(TokenLogprobs(token=token, top=((token, -0.5), *others)) for token in tokens)


def test_llama_cpps_server_tells_what_the_same_weights_think_in_torch(
    smollm2: Path, smollm2_hf: Path, tmp_path: Path
) -> None:
    request = Request(messages=QUESTION, max_tokens=24, top_logprobs=5)
    with LlamaServer(smollm2, ctx_per_slot=256, threads=1) as server:
        reply = ask(server.base_url, server.alias, request)
    assert "".join(each.token for each in reply.top_logprobs).encode("latin-1").decode() == reply.text
    assert all(each.top[0][0] == each.token for each in reply.top_logprobs), "greedy: the likeliest is written"

    pair, pieces = Pair(prompt="say it", completion=reply.text), Pieces(6)
    row = pieces.row(reply.top_logprobs, reply.text)
    assert row is not None and row.ids_T_K.shape == (len(reply.top_logprobs), 5)
    teacher = TransformersTeacher(smollm2_hf, model="t", licence="")
    ((_, read),) = teacher.score([("row", QUESTION, reply.text)], 5)
    tokenizer = load_tokenizer(smollm2_hf)
    assert [pieces.of(token).decode() for token in row.tokens_T[:-1]] == [*map(tokenizer.decode, read.tokens_T[:-1])]
    assert row.tokens_T[-1] == END
    assert np.abs(row.logprobs_T_K[:, 0] - read.logprobs_T_K[:, 0]).mean() < 0.15, "it computes in other precision"

    name = name_of(pair.prompt, pair.completion)
    own = [*tokenizer(reply.text)["input_ids"], end_of_turn(smollm2_hf)]
    soft = taught_by(tmp_path, smollm2_hf, pieces, {name: row}).of(pair, own)
    assert soft is not None and soft.ids_L_K[:, 0].tolist() == own, "the end too"
    here_too = [len({*a} & {*b}) for a, b in zip(soft.ids_L_K.tolist(), read.ids_T_K.tolist(), strict=True)]
    assert np.mean(here_too) > 4, "of five, the same are the likeliest"


def taught_by(folder: Path, student: Path, pieces: Pieces, rows: dict[str, object]) -> Taught:
    from workbench.digest import file_digest

    pieces.write(folder)
    with LogitWriter(
        folder / "logits.bin", tokenizer="p", fingerprint=file_digest(folder / PIECES), vocabulary=len(pieces), k=6
    ) as file:
        for name, row in rows.items():
            file.add(name, row)  # type: ignore[arg-type]
    return Taught([Captured(folder / "logits.bin", folder)], student, Blend(0.5), k=50)


def test_pieces_are_those_of_the_text_and_no_others() -> None:
    pieces = Pieces(3)
    row = pieces.row(told("\n", "[", "{}", "]", "\n", "<|end|>"), "[{}]")
    assert row is not None and len(row.tokens_T) == 3, "it did not end there"
    row = pieces.row(told("[", "{}", "]", "<|end|>"), "[{}]")
    assert row is not None and row.tokens_T[-1] == END and row.ids_T_K[-1, 0] == END
    row = pieces.row(told("[{}", "]\n"), "[{}]")
    assert row is not None and b"".join(map(pieces.of, row.tokens_T)) == b"[{}]"
    assert pieces.of(int(row.ids_T_K[1, 0])) == b"]", "what is behind the answer is none of the token's"
    for place, tokens in {
        "another": ("[", "}"),
        "a part": ("[",),
        "more before it": (" [", "{}", "]"),
        "nothing": (),
    }.items():
        assert pieces.row(told(*tokens), "[{}]") is None, place


def test_fewer_are_told_at_some_places_and_two_of_one_text_are_one() -> None:
    pieces, few = Pieces(3), TokenLogprobs(token="]", top=(("]", -0.5), ("]\n", -1.0), ("", -2.0)))
    joined = few.model_copy(update={"token": "]\n"})
    row = pieces.row((told("[", top=3)[0], joined), "[]")
    assert row is not None and row.ids_T_K.shape == (2, 3)
    assert row.logprobs_T_K[1].tolist() == [pytest.approx(np.logaddexp(-0.5, -1.0)), -np.inf, -np.inf]
    assert len(set(row.ids_T_K[1].tolist())) == 3, "a file takes no id twice"


def test_characters_in_parts_come_back(tmp_path: Path, smollm2_hf: Path) -> None:
    parts = [bytes([byte]).decode("latin-1") for byte in "é🍮".encode()]
    pieces, tokenizer = Pieces(3), load_tokenizer(smollm2_hf)
    row = pieces.row(told(*parts), "é🍮")
    assert row is not None
    pieces.write(tmp_path)
    assert [Pieces.read(tmp_path).of(token) for token in range(len(pieces))] == [*map(pieces.of, range(len(pieces)))]
    taught = taught_by(tmp_path, smollm2_hf, pieces, {name_of("p", "é🍮"): row})
    own = [*tokenizer("é🍮")["input_ids"], end_of_turn(smollm2_hf)]
    assert taught.of(Pair(prompt="p", completion="é🍮"), own) is not None
    assert taught.share == pytest.approx(1 - 1 / len(own))


def test_pieces_that_are_gone_are_told(tmp_path: Path) -> None:
    (tmp_path / PIECES).write_text("[")
    with pytest.raises(LogitError, match=r"pieces\.json cannot be read"):
        Pieces.read(tmp_path)


def test_the_ledger_keeps_them(ledger: Ledger) -> None:
    plain, request = Request(messages=QUESTION), Request(messages=QUESTION, top_logprobs=3)
    assert Ledger.key("m", plain) != Ledger.key("m", request), "a reply without them does not answer"
    reply = Reply(text="é", top_logprobs=told("Ã", "©"))
    key = Ledger.key("m", request)
    assert ledger.put(key, "m", request, reply) == reply == ledger.get(key)
    with sqlite3.connect(ledger.path) as db:
        db.execute("UPDATE calls SET top_logprobs = ?", (b"torn",))
    with pytest.raises(StoreError, match="is damaged"):
        ledger.get(key)


def test_a_ledger_of_the_first_format_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    request, reply = Request(messages=QUESTION), Reply(text="yes")
    with Ledger(path) as ledger:
        ledger.put("k", "m", request, reply)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE calls DROP COLUMN logprob")
        db.execute("ALTER TABLE calls DROP COLUMN top_logprobs")
        db.execute("PRAGMA user_version = 1")
    more = Reply(text="no", logprob=-1.0, top_logprobs=told("no"))
    with Ledger(path) as ledger:
        assert ledger.get("k") == reply
        assert ledger.put("l", "m", request, more) == more == ledger.get("l")


def choice(*places: object) -> SimpleNamespace:
    """A reply of the server's, each place a token, its log-probability and those of others there."""
    content = [
        SimpleNamespace(token=token, logprob=own, top_logprobs=[SimpleNamespace(token=t, logprob=p) for t, p in top])
        for token, own, top in places  # type: ignore[misc]
    ]
    message = SimpleNamespace(content="".join(place.token for place in content))
    logprobs = SimpleNamespace(content=content)
    return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop", logprobs=logprobs)])


def test_what_is_no_number_is_left_out_and_costs_no_reply() -> None:
    odd = choice(("[", -0.1, [("[", -0.1), ("{", -math.inf), ("(", None)]), ("]", -0.2, [("]", -0.2), ("}", math.nan)]))
    reply = reply_of(odd, 0.0, 3)
    assert [each.top for each in reply.top_logprobs] == [(("[", -0.1),), (("]", -0.2),)]
    assert Reply.model_validate_json(reply.model_dump_json()) == reply, "it comes through the post"
    assert reply_of(odd, 0.0).top_logprobs == (), "nobody asked"
    silent = reply_of(choice(("[", -0.1, [("[", -0.1)]), ("]", None, [])), 0.0, 3)
    assert (silent.text, silent.top_logprobs) == ("[]", ())
    many = reply_of(choice(("[", -9.0, [(f"t{place}", -place) for place in range(1, 9)])), 0.0, 3)
    assert [token for token, _ in many.top_logprobs[0].top] == ["t1", "t2", "t3", "["]


def test_what_is_no_distribution_keeps_one_row_out_and_not_the_run() -> None:
    pieces, sure = Pieces(3), TokenLogprobs(token="[]", top=(("[]", -0.1), ("[", -0.1)))
    assert pieces.row((sure,), "[]") is None, "1.8 in all"
    wide = TokenLogprobs(token="[]", top=tuple((f"{place}", -2.0) for place in range(5)))
    row = pieces.row((wide,), "[]")
    assert row is not None and row.ids_T_K.shape == (1, 3)


def asker(server: TeacherServer, ledger: Ledger) -> Asker:
    teacher = OpenAITeacher("fake", base_url=server.base_url, key="local", licence="")
    return Asker(teacher, ledger, top_logprobs=3)


def test_a_server_that_tells_none_is_given_up_and_what_was_paid_is_kept(server: TeacherServer, ledger: Ledger) -> None:
    async def all_asked(one: Asker) -> int:
        answered = 0
        try:
            for number in range(9):
                message = Message(role="user", content=f"say {number}")
                await one.ask(Request(messages=(message,), purpose="label"))
                answered += 1
        except TeacherError as error:
            assert error.fatal and "asked for the 3 likeliest tokens, and tells none" in str(error)
        await one.teacher.aclose()
        return answered

    assert asyncio.run(all_asked(asker(server, ledger))) == 3
    assert server.requests[0]["top_logprobs"] == 3 and server.requests[0]["logprobs"] is True
    assert asyncio.run(all_asked(asker(server, ledger))) == 3 and server.count == 4, "it is not paid again to hear that"


def test_inputs_are_written_without(server: TeacherServer, ledger: Ledger) -> None:
    async def asked() -> None:
        one = asker(server, ledger)
        await one.ask(Request(messages=QUESTION, purpose="write"))
        await one.teacher.aclose()

    asyncio.run(asked())
    assert "top_logprobs" not in server.requests[0]


def test_a_server_that_refuses_is_told_of(server: TeacherServer) -> None:
    server.script = ["400"]
    with pytest.raises(TeacherError) as refused:
        ask(server.base_url, "fake", Request(messages=QUESTION, top_logprobs=3))
    assert "teacher.top_logprobs" in refused.value.hint


def test_which_methods_an_api_serves() -> None:
    api = ("teacher.base_url=https://api.example.com/v1", "teacher.model=big")
    assert load_config(sets=(*api, "distil.method=kd", "teacher.top_logprobs=20")).teacher.top_logprobs == 20
    with pytest.raises(ConfigError, match="behind an API") as found:
        load_config(sets=(*api, "distil.method=kd"))
    assert "--set teacher.top_logprobs=20" in found.value.hint
    with pytest.raises(ConfigError, match="behind an API") as found:
        load_config(sets=(*api, "distil.method=gkd", "teacher.top_logprobs=20"))
    assert "top_logprobs" not in found.value.hint, "it reads nothing that the student wrote"


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[TeacherServer]:
    with TeacherServer(tmp_path / "log.jsonl", text="[]", tells=True) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    (tmp_path / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"corpus"'))
    texts = [f"what do you make of number {word}" for word in ("one", "seven", "thirty", "ninety")]
    lines = [json.dumps({"input": {"text": text}}) + "\n" for text in texts]
    (tmp_path / "data" / "corpus.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "said"), [(3, "3 likeliest tokens were told\n"), (5, "told, of 5 that were asked for")]
)
def test_a_run_learns_from_what_an_api_tells(
    teller: TeacherServer, tiny: Path, project: Path, asked: int, said: str
) -> None:
    """It tells three, however many are asked for."""
    sets = ("shots.mode=fixed", "select.recombine=0", "select.empty_margin=-1", "select.doubtful=0", "train.max_steps=2",
            "train.evals=1", f"teacher.top_logprobs={asked}", f"teacher.base_url={teller.base_url}")  # fmt: skip
    words = ("run", "talk.py", "--until", "train", "--method", "kd", "--teacher", "fake", "--student", str(tiny))
    done = here(project, *words, *(word for each in sets for word in ("--set", each)))
    assert done.returncode == 0, done.stdout + done.stderr
    lock = read_json(max(project.glob("runs/talk/*Z-*/lock.json")))
    folder = {entry["stage"]: Path(entry["path"]) for entry in lock["stages"]}
    rows = [row for row in read_jsonl(folder["select"] / "rows.jsonl", Row) if row.call]
    (made,) = read_json(folder["capture"] / "capture.json")["by"]
    assert (made["rows"], made["tokens"], made["k"], made["tokenizer"]) == (len(rows), 2 * len(rows), 3, "")
    assert rows and f"with {len(rows)} of the {len(rows)} rows of teachers the" in done.stdout and said in done.stdout
    assert read_json(folder["train"] / "summary.json")["aligned"] > 0, "`[` is where the student has a border too"
