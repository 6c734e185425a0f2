"""What a stored distribution costs and how much of it is lost: this format and DistillKit's published budget setting.

    python benchmarks/logits.py --model qwen2.5-coder-1.5b-instruct --rows 60

The teacher reads the human answers of two tasks, after six shots, and the prose of docs/, and its next-token distributions go
through both formats at k = 50. Printed is KL(dense || read back) in nats a token. What is read back are k ids; the missing mass
is spread evenly over all others, and the whole is made to sum to one. Where k probabilities sum to one or more, nothing is
missing, and KL would be infinite: `floor 1e-8` gives each of the others at least that much, as DistillKit's `densify` does;
`best floor` is the least missing mass, one for all tokens, that serves the format best. No k = 50 goes below `top 50`.

DistillKit (github.com/arcee-ai/DistillKit, README, "budget pick"): k 50, exact_k 1 in bfloat16, terms 0, 1 and sqrt of the rank
in float32, ids in ceil(log2(vocabulary)) bits each. Those are the README's 114 bytes for a vocabulary of up to 65,536, and 127
for one of 151,936; what their own files hold beside that (Arrow, the tokens) is not counted. In ours all is counted.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from workbench import models
from workbench.logits import LogitFile, LogitWriter, Row
from workbench.students.load import load_model, load_tokenizer, prepare_base

HERE = Path(__file__).parents[1]
K = 50
SHOTS = 6
PROSE_TOKENS = 60
FLOORS = tuple(10.0**power for power in np.arange(-8, -0.5, 0.5))


class Dense(NamedTuple):
    """What of a dense distribution is needed: its top k in float64, and the sum of p log p over all of it."""

    row: Row
    logprobs_T_K: np.ndarray
    information_T: np.ndarray


def texts(tokenizer, rows: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and completion, as tokens: a third phone_actions, a third support_triage, a third prose."""
    count = math.ceil(rows / 3)
    for task in ("phone_actions", "support_triage"):
        lines = (HERE / "tasks" / "data" / task / "seeds.jsonl").read_text().splitlines()
        examples = [json.loads(line) for line in lines]
        turns = [
            ({"role": "user", "content": json.dumps(example["input"], ensure_ascii=False)},
             {"role": "assistant", "content": json.dumps(example["target"], ensure_ascii=False, separators=(",", ":"))})
            for example in examples
        ]  # fmt: skip
        block = [message for turn in turns[:SHOTS] for message in turn]
        stride = max(1, (len(turns) - SHOTS) // count)
        for asked, answered in turns[SHOTS::stride][:count]:
            prompt = tokenizer.apply_chat_template([*block, asked], add_generation_prompt=True, tokenize=False)
            yield tuple(
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (prompt, answered["content"] + tokenizer.eos_token)
            )
    prose = "\n".join(path.read_text() for path in sorted((HERE / "docs").glob("*.md")))
    ids = tokenizer(prose, add_special_tokens=False)["input_ids"]
    for start in range(0, 2 * PROSE_TOKENS * (rows - 2 * count), 2 * PROSE_TOKENS):
        middle = start + PROSE_TOKENS
        yield ids[start:middle], ids[middle : middle + PROSE_TOKENS]


def observed(name: str, rows: int) -> tuple[list[Dense], int]:
    """A teacher's distributions over the completions, and the size of its vocabulary."""
    folder = prepare_base(models.path_or_name(name), models.cache_dir() / "students")
    tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
    found = []
    for prompt, completion in texts(tokenizer, rows):
        line = torch.tensor([[*prompt, *completion]], device=model.device)
        with torch.inference_mode():
            logits = model(line, logits_to_keep=len(completion) + 1).logits[0, :-1]
        dense = logits.double().log_softmax(-1)
        values, ids = (part.cpu().numpy() for part in dense.topk(K))
        row = Row(np.array(completion, np.int32), ids.astype(np.int32), values.astype(np.float32))
        found.append(Dense(row, values, (dense.exp() * dense).sum(-1).cpu().numpy()))
    return found, int(model.config.vocab_size)


def divergence(dense: Dense, read: Row, vocabulary: int, floor: float) -> np.ndarray:
    """KL(dense || read back) of each token, nats; `floor` is the least mass that is missing."""
    order, theirs = (np.argsort(ids, axis=1) for ids in (dense.row.ids_T_K, read.ids_T_K))
    true = np.take_along_axis(dense.logprobs_T_K, order, axis=1)
    told = np.take_along_axis(read.logprobs_T_K.astype(np.float64), theirs, axis=1)
    missing = np.maximum(1 - np.exp(told).sum(axis=1), floor)
    whole = np.log(np.exp(told).sum(axis=1) + missing)
    rest = 1 - np.exp(true).sum(axis=1)
    cross = (np.exp(true) * told).sum(axis=1) + rest * np.log(missing / (vocabulary - K))
    return dense.information_T - cross + whole


def distillkit(row: Row) -> Row:
    """Through the budget setting and back: `compress_monotonic_logprobs` with no residual bins."""
    values = torch.tensor(row.logprobs_T_K)
    ranks = torch.arange(K - 1, dtype=torch.float32)
    terms = torch.stack([ranks**0, ranks, ranks.sqrt()], dim=-1)
    coefficients = torch.linalg.lstsq(terms, values[:, 1:].T).solution
    fitted = (terms @ coefficients).T
    told = torch.cat([values[:, :1].to(torch.bfloat16).float(), fitted], dim=-1)
    return row._replace(logprobs_T_K=told.numpy())


def distillkit_bytes(vocabulary: int) -> int:
    """`DistributionQuantizationConfig.total_bits`, in bytes."""
    return 2 + 3 * 4 + math.ceil(K * math.ceil(math.log2(vocabulary)) / 8)


def stored(all_: list[Dense], vocabulary: int) -> tuple[list[Row], float, str]:
    """The rows through a file and back, bytes a token of the file, and what was timed."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "teacher.logits"
        started = perf_counter()
        with LogitWriter(path, tokenizer="-", fingerprint="0" * 64, vocabulary=vocabulary, k=K) as writer:
            for number, dense in enumerate(all_):
                writer.add(f"{number:016x}", dense.row)
        written = perf_counter() - started
        with LogitFile(path) as file:
            file.check()
            started = perf_counter()
            rows = [file[name] for name in file.names]
            read = perf_counter() - started
            per = 1000 / len(rows)
            timed = f"written in {written * per:.2f} ms a row of {file.tokens / len(rows):.0f} tokens, read in {read * per:.2f}"
            return rows, file.bytes_a_token, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="a name of the catalogue, a GGUF file or a folder"
    )
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument(
        "--vocabulary", type=int, default=0, help="spread the ids over so many, to see what they cost there"
    )
    args = parser.parse_args()
    all_, own = observed(args.model, args.rows)
    vocabulary = own
    if args.vocabulary > own:
        vocabulary = args.vocabulary
        places = np.sort(np.random.default_rng(0).choice(vocabulary, own, replace=False)).astype(np.int32)
        all_ = [d._replace(row=Row(places[d.row.tokens_T], places[d.row.ids_T_K], d.row.logprobs_T_K)) for d in all_]
    rows, size, timed = stored(all_, vocabulary)
    formats = {
        "top 50, float32": ([d.row for d in all_], 8.0 * K),
        "workbench": (rows, size),
        "DistillKit, budget": ([distillkit(d.row) for d in all_], float(distillkit_bytes(vocabulary))),
    }
    tokens = sum(len(d.information_T) for d in all_)
    print(f"{args.model}: {len(all_)} rows, {tokens} tokens, vocabulary {vocabulary}, k {K}\n")
    print("| format | bytes a token | KL, floor 1e-8 | KL, best floor | above top 50, mean | median |")
    print("|---|---:|---:|---:|---:|---:|")
    least = np.zeros(tokens)
    for name, (told, size) in formats.items():
        pairs = list(zip(all_, told, strict=True))
        floored, *tried = (
            np.concatenate([divergence(dense, row, own, floor) for dense, row in pairs])
            for floor in (1e-8 * (own - K), *FLOORS)
        )
        best = min(tried, key=np.mean)
        least = least if least.any() else best
        above = best - least
        print(
            f"| {name} | {size:.1f} | {floored.mean():.5f} | {best.mean():.5f} | {above.mean():.5f} | {np.median(above):.5f} |"
        )
    print(f"\n{timed}")


if __name__ == "__main__":
    main()
