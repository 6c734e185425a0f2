"""Between the stages and a teacher: the ledger first, then the budget, then the wire.

A question found in the ledger is not sent. Two askers of the same question at once share one call. Every reply is in the
ledger before anyone sees it. Budgets count what the work rests on, paid now or earlier: calls, tokens, money, and the minutes
in which any of its calls was under way. What is in the ledger is given though the minutes are up: it takes none.

Not guaranteed: where a budget ends the work. Calls side by side end in any order, what a local teacher had begun when the
minutes were up is not in the ledger, and a batch's calls tell no seconds: a run that goes on, or is replayed, may stop at
another wish than an undisturbed one, and ask for the rest of its minutes. Without a budget's end both give one shard.
"""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from workbench.errors import TeacherError
from workbench.ledger import Found, Ledger, Paid
from workbench.teachers.base import Teacher
from workbench.teachers.pace import WAIT_AT_MOST_S, Pace
from workbench.teachers.recorder import Recorder
from workbench.types import Reply, Request

RETRIED = ("rate", "timeout", "server", "network", "bad_reply")
DEAD_AFTER = 8  # failures in a row, retries included, after which a teacher is taken for dead; and three a place, for
# a hiccup of the server fails all that is under way at once
SILENT = 4  # replies without the log-probabilities that were asked for, after which no more are paid for
TURN_TOKENS = 16  # that a chat template writes around a message, at most


@dataclass
class Limits:
    """`found`: replies that the ledger holds count too, for the work rests on them."""

    calls: int = 10**9
    tokens: int = 10**12
    money: float = float("inf")
    minutes: float = 10**6
    found: bool = True


@dataclass
class Spent:
    """What the work rests on (`calls`, `tokens`, `money`), and what of it was paid in this process (`sent`)."""

    calls: int = 0
    sent: int = 0
    tokens: int = 0
    money: float = 0.0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    earlier: set[int] = field(default_factory=set)  # the seconds of calls that were made before

    def add(self, other: "Spent") -> None:
        """What another spent for the same work, at the same time."""
        self.calls += other.calls
        self.sent += other.sent
        self.tokens += other.tokens
        self.money += other.money
        self.failed += other.failed
        self.earlier |= other.earlier

    @property
    def minutes(self) -> float:
        return (len(self.earlier) + time.monotonic() - self.started) / 60

    def over(self, limits: Limits, *, late: bool = False) -> str:
        """Which limit is passed, in words; empty while none is. `calls` holds the one that asks, so it may reach its limit;
        `late`: the minutes do not matter."""
        if self.calls > limits.calls:
            return f"the budget of {limits.calls} calls is spent"
        if self.tokens >= limits.tokens:
            return f"the budget of {limits.tokens} tokens is spent"
        if self.money > 0 and self.money >= limits.money:
            return f"the budget of {limits.money:g} in money is spent"
        if not late and self.minutes >= limits.minutes:
            return f"the budget of {limits.minutes:g} minutes is spent"
        return ""


class Answer(NamedTuple):
    """The ledger key of the call, the reply, and whose it is."""

    call: str
    reply: Reply
    teacher: str
    licence: str


class Asker:
    """Asks one teacher; those of a pool share what is `spent`. `constrained`: it is handed the JSON schema of an answer, where
    the request has one. `top_logprobs`: so many are to be told with each label. Raises TeacherError: `kind="budget"` when a
    limit is reached, fatal ones as they come."""

    def __init__(
        self,
        teacher: Teacher,
        ledger: Ledger,
        *,
        limits: Limits | None = None,
        concurrency: int = 8,
        attempts: int = 5,
        price: tuple[float, float] = (0.0, 0.0),
        pace: Pace | None = None,
        constrained: bool = True,
        top_logprobs: int = 0,
        spent: Spent | None = None,
        copies: int = 1,
    ) -> None:
        self.teacher = teacher
        self.ledger = ledger
        self.limits = limits or Limits()
        self.spent = spent or Spent()
        self.constrained = constrained
        self.top_logprobs = top_logprobs
        self._silent: int | None = 0  # replies that told none, until one told some
        self.ended = ""  # the budget that refused a request, in words; empty while none did
        self.attempts = attempts
        self._copies = copies
        self.price = price  # per million tokens read and written
        self.concurrency = concurrency
        self.pace = pace or Pace(concurrency)
        self._dead_after = max(DEAD_AFTER, 3 * self.pace.most_inside)
        self._began = int(time.time())  # since then the clock of this process counts
        self._counted: set[str] = set()
        self._late: set[str] = set()
        self._under_way: dict[str, asyncio.Task[Reply]] = {}
        self._failures_in_a_row = 0
        self.last_failure: TeacherError | None = None
        self._dearest = (0, 0.0)  # tokens and money of one request, at most
        self._broken: TeacherError | None = None
        self._keeper = teacher.keeper or Recorder(ledger)

    def fitted(self, request: Request) -> Request:
        """As it is sent."""
        changes: dict[str, Any] = {} if self.constrained else {"json_schema": None}
        if self.top_logprobs and request.purpose == "label":
            changes["top_logprobs"] = self.top_logprobs
        return request.model_copy(update=changes) if changes else request

    def key(self, request: Request) -> str:
        """The ledger's, of a request as it is sent."""
        return self.ledger.key(self.teacher.model, request)

    async def ask(self, request: Request, *, late: bool = False) -> Answer:
        """`late`: it may come after the minutes are up, for work that was done before would be lost without it."""
        request = self.fitted(request)
        key = self.key(request)
        if late:
            self._late.add(key)
        first = key not in self._counted
        if first:
            self._counted.add(key)
            self.spent.calls += 1  # before the answer is there: many who ask at once do not pass the limit together
        try:
            found = await self.found(key)
            counts = first and (found is None or self.limits.found)
            if counts:
                self.check_budget(key, late=found is not None)
            if found is None:
                return self._answered(key, request, await self._answer(key, request))
            if counts:
                self._count_earlier(found)
            return self._answered(key, request, found.reply)
        except BaseException:
            if first:
                self._counted.discard(key)
                self.spent.calls -= 1
            raise

    def _answered(self, key: str, request: Request, reply: Reply) -> Answer:
        if request.top_logprobs and self._silent is not None and reply.finish == "stop":
            self._silent = None if reply.top_logprobs else self._silent + 1
            if self._silent == SILENT:
                self._broken = TeacherError(
                    f"{self.teacher.model} is asked for the {request.top_logprobs} likeliest tokens, and tells none",
                    "learn from its text: --method sft, without teacher.top_logprobs",
                    kind="refused",
                    fatal=True,
                )
                raise self._broken
        return Answer(key, reply, self.teacher.model, self.teacher.licence)

    async def found(self, key: str) -> Found | None:
        """What was paid for before."""
        return self.ledger.found(key)

    def resume(self) -> None:
        """Counts all that the ledger holds as what this work rests on: where it is this work's own, begun by a process that was
        killed."""
        for key in self.ledger.all_keys(self.teacher.model):
            found = self.ledger.found(key)
            assert found is not None, "it is append-only"
            self._counted.add(key)
            self.spent.calls += 1
            self._count_earlier(found)

    def _count_earlier(self, found: Found) -> None:
        self._count(found.reply)
        self.spent.earlier.update(range(found.seconds.start, min(found.seconds.stop, self._began)))

    def _count(self, reply: Reply) -> None:
        read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
        self.spent.tokens += read + written
        self.spent.money += (read * self.price[0] + written * self.price[1]) / 1e6

    async def _answer(self, key: str, request: Request) -> Reply:
        """From the call that is under way, or from the teacher."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._send(key, request))
            self._under_way[key] = task
            task.add_done_callback(partial(self._done, key))
        return await asyncio.shield(task)

    def _done(self, key: str, task: asyncio.Task[Reply]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # nobody may wait for it any more: no word of that from asyncio

    def check_budget(self, key: str, *, late: bool = False) -> None:
        reached = self.spent.over(self.limits, late=late or key in self._late)
        if reached:
            self.ended = reached
            which = (
                "sample.max_calls, max_tokens, max_money or max_minutes" if self.limits.found else "runtime.max_money"
            )
            raise TeacherError(reached, f"raise {which}", kind="budget")

    def _patience(self, key: str) -> float | None:
        """Seconds until the minutes are up, for a teacher in this process: it takes all requests at once, and what it drops
        is not paid for. What is under way at an API is waited for."""
        if self.teacher.keeper or not self.teacher.at_once or key in self._late:
            return None
        return max(0.0, 60 * (self.limits.minutes - self.spent.minutes))

    def _mind_the_caps(self, request: Request | None = None) -> None:
        """More than its lanes' worth is handed to a teacher only while all of it together cannot reach a cap: none is passed by
        more than what is under way. A token is a byte at least."""
        if request is not None:
            read = sum(len(message.content.encode(errors="replace")) + TURN_TOKENS for message in request.messages)
            money = self._copies * (read * self.price[0] + request.max_tokens * self.price[1]) / 1e6
            tokens, most = self._dearest
            self._dearest = (max(tokens, self._copies * (read + request.max_tokens)), max(most, money))
        tokens, money = self._dearest
        self.pace.strict = (
            self.spent.tokens + self.pace.most_inside * tokens >= self.limits.tokens
            or self.spent.money + self.pace.most_inside * money >= self.limits.money
        )

    async def _send(self, key: str, request: Request) -> Reply:
        self._mind_the_caps(request)
        async with self.pace.before_others() if key in self._late else self.pace:
            self.check_budget(key)
            try:
                try:
                    reply = await self._once(key, request)
                except TeacherError as error:
                    reply = await self._again(key, request, error)
            except TeacherError as error:
                self.spent.failed += error.kind != "budget"
                raise
            self.spent.sent += 1
            self._count(reply)  # before the next one may be sent: no cap is passed by more than what is under way
            self._mind_the_caps()
        # the next one need not wait for the disk
        return await self._keeper.put(Paid(key, self.teacher.model, request, reply))

    async def _again(self, key: str, request: Request, first: TeacherError) -> Reply:
        """After a failure, as often as `attempts` allows. Raises the last failure."""
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        def worth_it(error: BaseException) -> bool:
            return isinstance(error, TeacherError) and error.kind in RETRIED and not error.fatal

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            retry=retry_if_exception(worth_it),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise first
                await self.pace.leave()  # a server's own wish to wait is kept there, by all
                return await self._once(key, request)
        raise first

    async def _once(self, key: str, request: Request) -> Reply:
        if self._broken is not None:  # nobody is sent after one who found the teacher dead
            raise self._broken
        try:
            async with asyncio.timeout(self._patience(key)):
                reply = await self.teacher.complete(request)
        except TimeoutError:
            self.check_budget(key)
            raise
        except TeacherError as error:
            self.ledger.fail(key, self.teacher.model, request, error.kind, str(error))
            self.last_failure = error
            self._failures_in_a_row += 1
            if error.fatal:
                self._broken = error
            if error.kind == "rate" or error.wait_s:
                self.pace.slow_down(min(error.wait_s, WAIT_AT_MOST_S))
            if self._failures_in_a_row >= self._dead_after and not error.fatal:
                self._broken = TeacherError(
                    f"{self._failures_in_a_row} failures in a row, the last: {error}",
                    error.hint or "the run goes on where it was with the same command",
                    kind=error.kind,
                    fatal=True,
                )
                raise self._broken from error
            raise
        self._failures_in_a_row = 0
        self.pace.went_well(reply.usage.prompt_tokens + reply.usage.completion_tokens)
        return reply
