"""Python that a model wrote, executed by Monty: an interpreter of its own in a process of its own, which has no files, no
network and no modules of ours to reach; its clock stands still, and what it draws at random it draws again alike.

It knows a part of Python (no third-party modules, few of the standard library's): pydantic.dev/docs/monty.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPOKEN_BYTES = 2**16  # that it may print for nobody
SPARE_S = 5.0  # beyond its seconds, before a process is killed that does not end by itself: it has not had its core


class CodeError(Exception):
    """Why code gave nothing, as a person reads it: what it raised, or the limit that it met."""


class PythonSandbox:
    """One piece of code at a time; the process begins with the first one, and again after one that had to be killed.

    seconds, memory_mb: what a call may take, at most; a call's own clock runs only while it is executed.
    """

    def __init__(self, *, seconds: float = 2.0, memory_mb: float = 64.0) -> None:
        self._limits: Any = {
            "max_feed_duration_secs": seconds,
            "max_memory": int(memory_mb * 2**20),
            "max_total_sleep_secs": 0.0,
        }
        self._seconds = seconds
        self._pool: Any = None

    def call(self, code: str, function: str, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """What `function`, which `code` defines, gives for each list of arguments, one call after another. Raises CodeError,
        and ImportError where Monty is not installed."""
        import pydantic_monty

        if not isinstance(code, str):
            raise CodeError("it is no text")
        policy: Any = {"datetime": NOW, "sleep": "zero", "random_start": {"seed": 0}}
        try:
            with self._workers().checkout(limits=self._limits, os_policy=policy) as session:
                said: Any = {"print_callback": pydantic_monty.CollectString(max_bytes=SPOKEN_BYTES)}
                session.feed_run(code, **said)
                return [
                    session.feed_run(f"{function}(*given)", inputs={"given": list(each)}, **said) for each in arguments
                ]
        except pydantic_monty.MontyCrashedError as error:
            late = f"it takes more than {self._seconds:g} seconds"
            raise CodeError(late if error.timed_out else "its process died: too much memory, or too deep") from None
        except (pydantic_monty.MontySyntaxError, pydantic_monty.MontyRuntimeError) as error:
            raise CodeError(error.display("type-msg")) from None
        except pydantic_monty.MontyError as error:
            raise CodeError(str(error)) from None

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(None, None, None)

    def _workers(self) -> Any:
        from pydantic_monty import Monty

        if self._pool is None:
            most_s = self._seconds + SPARE_S
            self._pool = Monty(
                min_processes=1, max_processes=1, request_timeout=most_s, feed_duration_limit_grace=SPARE_S
            ).__enter__()
        return self._pool
