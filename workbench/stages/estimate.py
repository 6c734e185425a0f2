"""What a run would ask of the teacher, counted on the prompts as they would be sent. Asks nothing."""

from workbench.config import Config
from workbench.sources.writer import InputWriter
from workbench.task import Task
from workbench.teachers.prompts import Labeler

CHARS_PER_TOKEN = 3.6  # of English and JSON in current tokenizers; +-15 %
READ_PER_S, WRITE_PER_S = 100.0, 45.0  # a 1.5B Q4_K_M teacher on two cores, prefixes not cached


def estimated(task: Task, config: Config) -> list[str]:
    """Lines to print: calls, tokens, minutes. An upper bound: retries apart, nothing in the ledger counted off."""
    seeds, dev, test = task.examples("seed"), task.examples("dev"), task.examples("test")
    modes = ("group", "fixed", "nearest") if config.shots.mode == "auto" else (config.shots.mode,)
    answer = sum(len(task.output.dump(seed.target)) for seed in seeds) / len(seeds)
    labels = {
        mode: sum(len(m.content) for row in dev[:10] for m in Labeler(task, seeds, mode, config.shots).messages(row))
        / min(10, len(dev))
        for mode in modes
    }
    dearest = max(labels.values())
    writer = InputWriter(task, seeds)
    write = sum(len(m.content) for seed in seeds[:10] for m in writer.messages(seed.target, "short")) / min(
        10, len(seeds)
    )
    wanted = config.sample.inverse + config.sample.forward
    rows = config.evaluate.rows or len(test)
    plan = [
        ("choose the shots", len(modes) * config.shots.rows if len(modes) > 1 else 0, dearest),
        ("write inputs", wanted * config.sample.candidates, write),
        ("second looks", wanted if task.dear else 0, dearest),
        ("teacher on test", min(rows, len(test)), dearest),
    ]
    lines = [f"{'':18}{'calls':>8}{'tokens in':>12}{'tokens out':>12}"]
    total_in = total_out = total = 0.0
    for name, calls, chars in plan:
        read, wrote = calls * chars / CHARS_PER_TOKEN, calls * answer / CHARS_PER_TOKEN
        total, total_in, total_out = total + calls, total_in + read, total_out + wrote
        lines.append(f"{name:18}{calls:8,.0f}{read:12,.0f}{wrote:12,.0f}")
    lines.append(f"{'at most':18}{total:8,.0f}{total_in:12,.0f}{total_out:12,.0f}")
    if not config.teacher.base_url:
        worst = (total_in / READ_PER_S + total_out / WRITE_PER_S) / 60
        lines.append(f"a local 1.5B teacher on two cores: at most {worst:.0f} minutes; shared prefixes save most of it")
    lines.append(f"sampling stops at {config.sample.max_calls:,} calls, {config.sample.max_tokens:,} tokens "
                 f"or {config.sample.max_minutes:g} minutes")  # fmt: skip
    return lines
