"""What a run would ask of the teacher, counted on the prompts as they would be sent. Asks nothing."""

import random
from collections.abc import Sequence

from workbench.config import Config
from workbench.sources.values import holds_free_text
from workbench.sources.writer import ANSWERS_A_CALL, VALUES_A_CALL, AnswerWriter, InputWriter, ValueWriter
from workbench.stages.shots import tried
from workbench.task import Task
from workbench.teachers.prompts import Labeler
from workbench.types import Message

VALUE_CHARS = 15  # with its line end
CHARS_PER_TOKEN = 3.6  # of English and JSON in current tokenizers; +-15 %
READ_PER_S, WRITE_PER_S = 100.0, 45.0  # a 1.5B Q4_K_M teacher on two cores, prefixes not cached


def estimated(task: Task, config: Config) -> list[str]:
    """Lines to print: calls, tokens, minutes. An upper bound: retries apart, nothing in the ledger counted off."""
    seeds, dev, test = task.examples("seed"), task.examples("dev")[:10], task.examples("test")
    sample, sources = config.sample, set(task.sources)
    inverse, forward = (sample.inverse if "inverse" in sources else 0, sample.forward if "forward" in sources else 0)
    corpus = len(task.corpus()) if "corpus" in sources else 0
    modes = tried(config.shots)
    labelers = [Labeler(task, seeds, mode, config.shots) for mode in modes]
    label = max(_chars([labeler.messages(row) for row in dev]) for labeler in labelers)
    writer, values, rng = InputWriter(task, seeds), ValueWriter(task, seeds), random.Random(0)
    slots = [slot for slot, known in values.values.items() if known]
    write = _chars([writer.messages(seed.target, "short", task.given(seed.input)) for seed in seeds[:10]])
    more = _chars([values.messages(slot, rng) for slot in slots])
    answer = sum(len(task.output.dump(seed.target)) for seed in seeds) / len(seeds)
    answerer = AnswerWriter(task, seeds)
    new = _chars([answerer.messages(group, rng) for group in answerer.groups])
    written = (
        sample.answers_per_group if inverse and any(holds_free_text(task.output, seed.target) for seed in seeds) else 0
    )
    rounds = -(-sample.values_per_slot // VALUES_A_CALL) if inverse else 0
    looks = sum(getattr(validator, "votes", 1) for validator in task.dear)
    judged = (inverse + forward + corpus) * sample.candidates
    plan = [
        ("choose the shots", len(modes) * config.shots.rows if len(modes) > 1 or task.floor else 0, label, answer),
        ("write values", len(slots) * rounds, more, VALUES_A_CALL * VALUE_CHARS),
        ("write answers", len(answerer.groups) * -(-written // ANSWERS_A_CALL), new, ANSWERS_A_CALL * answer),
        ("write inputs", inverse * sample.candidates + forward, write, answer),
        ("answer inputs", (forward + corpus) * sample.candidates, label, answer),
        ("second looks", judged * looks, label, answer),
        ("teacher on test", min(config.evaluate.rows or len(test), len(test)), label, answer),
    ]
    lines = [f"{'':18}{'calls':>8}{'tokens in':>12}{'tokens out':>12}"]
    total_in = total_out = total = 0.0
    for name, calls, chars_in, chars_out in plan:
        read, wrote = calls * chars_in / CHARS_PER_TOKEN, calls * chars_out / CHARS_PER_TOKEN
        total, total_in, total_out = total + calls, total_in + read, total_out + wrote
        lines.append(f"{name:18}{calls:8,.0f}{read:12,.0f}{wrote:12,.0f}")
    lines.append(f"{'at most':18}{total:8,.0f}{total_in:12,.0f}{total_out:12,.0f}")
    if not config.teacher.base_url:
        worst = (total_in / READ_PER_S + total_out / WRITE_PER_S) / 60
        lines.append(f"a local 1.5B teacher on two cores: at most {worst:.0f} minutes; shared prefixes save most of it")
    teacher = config.teacher
    if teacher.price_in or teacher.price_out:
        cost = (total_in * teacher.price_in + total_out * teacher.price_out) / 1e6
        lines.append(f"at {teacher.price_in:g} and {teacher.price_out:g} a million tokens: at most {cost:.2f} in money")
    lines.append(f"sampling stops at {config.sample.max_calls:,} calls, {config.sample.max_tokens:,} tokens, "
                 f"{config.sample.max_money:g} in money or {config.sample.max_minutes:g} minutes")  # fmt: skip
    return lines


def _chars(chats: Sequence[Sequence[Message]]) -> float:
    """The mean length of a chat, 0 for none."""
    return sum(len(message.content) for chat in chats for message in chat) / max(1, len(chats))
