"""Many answers at once from a transformers model whose prompts begin alike, as few-shot prompts do.

What a prompt shares with others is read once and kept (`attention`). On a CPU that multiplies in bf16 (AMX, AVX-512) this
reads and writes several times as many tokens a second as llama.cpp does, at the price of unpacked weights in memory.

Shapes: B rows, T new tokens of a row, S a row's own tokens so far (T included), V vocabulary.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from transformers import DynamicCache, PreTrainedModel

from workbench.errors import StudentError
from workbench.students.attention import NAME, Prefix, looking_at, looks_at_all

PREFIXES = 48  # kept; one is 28 KiB a token for a model of 1.5 billion
TOP_K = 40  # of the vocabulary are drawn from, as llama.cpp's server does unasked
LINES = (32, 64, 128)  # of a batch: which, is measured
PROBE, STEPS = 16, 4  # tokens of a prompt whose answers are timed, and how many of these
ADMIT = 16  # free lines that are worth reading new prompts for
READ_AT_ONCE = 64  # prompts
SCORES = 8_000_000  # of rows * new tokens * all tokens in one pass; with 12 heads 0.4 GB in fp32
PASS = 24  # tokens that are read in the time that a pass takes to go through the weights once, on two cores
LOGITS = 64_000_000  # of scored texts, in one pass; 0.25 GB in fp32
HELD = 65_536  # tokens of a batch, without the shared ones; more are not admitted


class Job(NamedTuple):
    """One prompt in tokens, and how to go on from it. `top_p` has no effect at temperature 0; `name` is the caller's own.

    `shared`: how many of the first tokens other jobs begin with too, so that they are worth keeping; not all of them.
    """

    ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    name: int = 0
    shared: int = 0


class Text(NamedTuple):
    """A prompt and its completion in tokens, the last `written` ones the completion's. `name` and `shared` as a job's."""

    ids: tuple[int, ...]
    written: int
    name: int = 0
    shared: int = 0


class Top(NamedTuple):
    """At each of the C tokens of a completion, what else might stand there: the K likeliest tokens (C, K), and their
    log-probabilities at temperature 1 (C, K), the likeliest first."""

    ids_C_K: torch.Tensor
    logprobs_C_K: torch.Tensor


J = TypeVar("J", Job, Text)


class Chosen(NamedTuple):
    """A token for each row (B,), and its log-probability at temperature 1 among all tokens (B,)."""

    tokens_B: torch.Tensor
    logprobs_B: torch.Tensor


class Answer(NamedTuple):
    """The tokens written, without the stop, and the log-probability of each, that of the stop included."""

    tokens: list[int]
    logprobs: list[float]


class Read(NamedTuple):
    """Rows whose prompts are read: their prefixes, their own keys and values, which places are their own (B, S), and what
    is chosen as their first new tokens."""

    prefixes: list[Prefix]
    cache: DynamicCache
    own_B_S: torch.Tensor
    chosen: Chosen


class Batch:
    """The rows that are being answered. Each row's own places stand at the right; what is left of them is padding."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answers: list[Answer] = []
        self.prefixes: list[Prefix] = []
        self.cache = DynamicCache()
        self.own_B_S = torch.zeros(0, 0, dtype=torch.bool)
        self.last_B_1 = torch.zeros(0, 1, dtype=torch.long)

    def admit(self, jobs: Sequence[Job], read: Read) -> None:
        if not self.jobs:
            self.cache, self.own_B_S, self.last_B_1 = read.cache, read.own_B_S, read.chosen.tokens_B[:, None]
        else:
            places = max(self.own_B_S.shape[1], read.own_B_S.shape[1])
            self.own_B_S = torch.cat([_widened(self.own_B_S, places, 1), _widened(read.own_B_S, places, 1)])
            for mine, theirs in zip(_layers(self.cache), _layers(read.cache), strict=True):
                mine.keys = torch.cat([_widened(mine.keys, places, 2), _widened(theirs.keys, places, 2)])
                mine.values = torch.cat([_widened(mine.values, places, 2), _widened(theirs.values, places, 2)])
            self.last_B_1 = torch.cat([self.last_B_1, read.chosen.tokens_B[:, None]])
        self.jobs += jobs
        self.prefixes += read.prefixes
        fresh = [Answer([], []) for _ in jobs]
        self.answers += fresh
        _note(fresh, read.chosen)

    def extend(self, chosen: Chosen) -> None:
        self.last_B_1 = chosen.tokens_B[:, None]
        _note(self.answers, chosen)

    def grown(self) -> torch.Tensor:
        """`own_B_S` with the place of the token that is read next."""
        self.own_B_S = torch.cat([self.own_B_S, self.own_B_S.new_ones(len(self.jobs), 1)], 1)
        return self.own_B_S

    def release(self, stops: frozenset[int], give: Callable[[Job, Answer], None]) -> None:
        """Hand over what is finished, and close the ranks: no line and no column is kept that nobody looks at."""
        kept: list[int] = []
        for line, (job, answer) in enumerate(zip(self.jobs, self.answers, strict=True)):
            if answer.tokens[-1] in stops:
                give(job, Answer(answer.tokens[:-1], answer.logprobs))
            elif len(answer.tokens) >= job.max_tokens:
                give(job, answer)
            else:
                kept.append(line)
        if len(kept) == len(self.jobs):
            return
        self.jobs, self.answers = [self.jobs[line] for line in kept], [self.answers[line] for line in kept]
        self.prefixes = [self.prefixes[line] for line in kept]
        if not kept:
            self.own_B_S = self.own_B_S[:0]
            return
        lines = torch.tensor(kept, device=self.own_B_S.device)
        self.own_B_S, self.last_B_1 = self.own_B_S[lines], self.last_B_1[lines]
        first = int(self.own_B_S.any(0).nonzero()[0])
        self.own_B_S = self.own_B_S[:, first:]
        for layer in _layers(self.cache):
            layer.keys, layer.values = layer.keys[lines, :, first:], layer.values[lines, :, first:]


def _note(answers: Sequence[Answer], chosen: Chosen) -> None:
    for answer, token, logprob in zip(answers, chosen.tokens_B.tolist(), chosen.logprobs_B.tolist(), strict=True):
        answer.tokens.append(token)
        answer.logprobs.append(logprob)


def _layers(cache: DynamicCache) -> list[Any]:
    """Each with its `keys` and `values` (B, K, S, D); Generator has refused models with layers of another kind."""
    return list(cache.layers)


def _widened(tensor: torch.Tensor, places: int, dim: int) -> torch.Tensor:
    """Padded on the left along `dim` to `places`."""
    short = places - tensor.shape[dim]
    if not short:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = short
    return torch.cat([tensor.new_zeros(shape), tensor], dim)


class Generator:
    """Raises StudentError for a model whose layers do not all look at the whole text."""

    def __init__(self, model: PreTrainedModel, stops: frozenset[int]) -> None:
        if not looks_at_all(model):
            raise StudentError(
                f"{model.config.model_type} does not look at the whole text in each layer",
                "serve it with llama.cpp or any OpenAI-compatible server, and name that as the teacher",
            )
        model.set_attn_implementation(NAME)
        self.model = model
        self.model.train(False)
        self.stops = stops
        self.lines = LINES[-1]
        self.halted = False  # set by another thread: `run` returns after the step it is in
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def generate(self, jobs: Sequence[Job], seed: int = 0) -> list[list[int]]:
        """The tokens that follow each prompt, without the stop."""
        left = [job._replace(name=place) for place, job in enumerate(jobs)]
        found: dict[int, Answer] = {}

        def take(count: int) -> list[Job]:
            taken, left[:] = left[:count], left[count:]
            return taken

        self.run(take, lambda job, answer: found.update({job.name: answer}), seed)
        return [found[place].tokens for place in range(len(jobs))]

    @torch.inference_mode()
    def run(self, take: Callable[[int], Sequence[Job]], give: Callable[[Job, Answer], None], seed: int = 0) -> None:
        """Answer jobs until `take(count)`, which gives `count` of them at most, gives none and all are answered. A finished
        answer goes to `give` at once, and its line in the batch to the next job."""
        draw = torch.Generator(self.model.device).manual_seed(seed)
        batch = Batch()
        while not self.halted:
            free = self.lines - len(batch.jobs) if batch.own_B_S.numel() < HELD else 0
            new = take(min(free, READ_AT_ONCE)) if free >= ADMIT or not batch.jobs else []
            for part in _parts(new):
                batch.admit(part, self._read(part, draw))
            if not batch.jobs:
                return
            batch.release(self.stops, give)
            if batch.jobs:
                self._step(batch, draw)

    @torch.inference_mode()
    def pace(self, lines: int) -> float:
        """Tokens a second that a batch of so many lines writes; 0 where the memory does not hold it."""
        draw = torch.Generator(self.model.device).manual_seed(0)
        batch, ids = Batch(), tuple(range(1, PROBE + 1))
        try:
            for part in _parts([Job(ids, STEPS + 1, name=line) for line in range(lines)]):
                batch.admit(part, self._read(part, draw))
            began = time.perf_counter()
            for _ in range(STEPS):
                self._step(batch, draw)
        except torch.OutOfMemoryError:
            return 0.0
        return lines * STEPS / (time.perf_counter() - began)

    @torch.inference_mode()
    def score(self, texts: Sequence[Text], k: int) -> Iterator[tuple[Text, Top]]:
        """What the model makes of texts that somebody wrote, by length; each is read once."""
        width = int(self.model.config.vocab_size)
        for part in _parts(texts):
            most = max(1, LOGITS // (width * (max(text.written for text in part) + 1)))
            for at in range(0, len(part), most):
                some = part[at : at + most]
                longest = max(text.written for text in some)
                prefixes, ids_B_T, own_B_T = self._laid_out(some)
                logits_B_C_V = self._forward(prefixes, DynamicCache(), ids_B_T, own_B_T, longest + 1)[:, :-1]
                top = logits_B_C_V.topk(k)
                logprobs_B_C_K = top.values - logits_B_C_V.logsumexp(-1, keepdim=True)
                for line, text in enumerate(some):
                    own = slice(longest - text.written, longest)
                    yield text, Top(top.indices[line, own].cpu(), logprobs_B_C_K[line, own].cpu())

    def _step(self, batch: Batch, draw: torch.Generator) -> None:
        """One more token of each row."""
        logits_B_V = self._forward(batch.prefixes, batch.cache, batch.last_B_1, batch.grown())[:, -1]
        batch.extend(_choose(logits_B_V, batch.jobs, draw))

    def _read(self, jobs: Sequence[Job], draw: torch.Generator) -> "Read":
        """The rows' own part of their prompts, and the first token of their answers."""
        prefixes, ids_B_T, own_B_S = self._laid_out(jobs)
        cache = DynamicCache()
        logits_B_V = self._forward(prefixes, cache, ids_B_T, own_B_S)[:, -1]
        return Read(prefixes, cache, own_B_S, _choose(logits_B_V, jobs, draw))

    def _laid_out(self, jobs: Sequence[Job | Text]) -> tuple[list[Prefix], torch.Tensor, torch.Tensor]:
        """What is shared, and of the rest the tokens (B, T), at the right, and which places are theirs (B, T)."""
        prefixes = [self._prefix(job.ids[: job.shared]) for job in jobs]
        rests = [torch.tensor(job.ids[job.shared :]) for job in jobs]
        longest = max(len(rest) for rest in rests)
        ids_B_T = torch.zeros(len(jobs), longest, dtype=torch.long)
        own_B_T = torch.zeros(len(jobs), longest, dtype=torch.bool)  # padding stands between the prefix and a row's own
        for row, rest in enumerate(rests):
            ids_B_T[row, longest - len(rest) :] = rest
            own_B_T[row, longest - len(rest) :] = True
        return prefixes, ids_B_T.to(self.model.device), own_B_T.to(self.model.device)

    def _prefix(self, ids: tuple[int, ...]) -> Prefix:
        """From what is kept, or from the kept one that begins most like it."""
        if ids not in self._prefixes:
            near = max(self._prefixes.values(), key=lambda kept: common(kept.ids, ids), default=Prefix((), ()))
            known = near.cut(common(near.ids, ids))
            cache = DynamicCache()
            rest = torch.tensor([ids[len(known.ids) :]], device=self.model.device)
            if rest.shape[1]:
                self._forward([known], cache, rest, torch.ones_like(rest, dtype=torch.bool))
                layers = [(layer.keys[0], layer.values[0]) for layer in _layers(cache)]
                if known.layers:
                    layers = [
                        (torch.cat([a, c], 1), torch.cat([b, d], 1))
                        for (a, b), (c, d) in zip(known.layers, layers, strict=True)
                    ]
                known = Prefix(ids, tuple(layers))
            self._prefixes[ids] = known
            if len(self._prefixes) > PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(ids)
        return self._prefixes[ids]

    def _forward(
        self,
        prefixes: Sequence[Prefix],
        cache: DynamicCache,
        ids_B_T: torch.Tensor,
        own_B_S: torch.Tensor,
        keep: int = 1,
    ) -> torch.Tensor:
        """Logits (B, `keep`, V) after each of the last new tokens; a prefix a row."""
        new, total = ids_B_T.shape[1], own_B_S.shape[1]
        before_T_S = torch.ones(new, total, dtype=torch.bool, device=ids_B_T.device).tril(total - new)
        mask_B_T_S = own_B_S[:, None] & before_T_S
        before_B_1 = torch.tensor([[len(prefix.ids)] for prefix in prefixes], device=ids_B_T.device)
        places_B_S = before_B_1 + (own_B_S.cumsum(1) - 1).clamp(min=0)
        with looking_at(prefixes, mask_B_T_S):
            out: Any = self.model(
                input_ids=ids_B_T,
                position_ids=places_B_S[:, -new:],
                attention_mask=mask_B_T_S[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits_B_C_V: torch.Tensor = out.logits.float()
        return logits_B_C_V


def _parts(jobs: Sequence[J]) -> list[list[J]]:
    """By length, as many as may be read in one pass, and no more padding than a pass of its own would cost; one at least."""
    parts: list[list[J]] = []
    padding = longest = shared = 0
    for job in sorted(jobs, key=lambda job: len(job.ids) - job.shared):
        own, shared = len(job.ids) - job.shared, max(shared, job.shared)
        padding += len(parts[-1]) * (own - longest) if parts else 0
        if parts and padding <= PASS and (len(parts[-1]) + 1) * own * (own + shared) <= SCORES:
            parts[-1].append(job)
        else:
            parts.append([job])
            padding, shared = 0, job.shared
        longest = own
    return parts


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))


def _choose(logits_B_V: torch.Tensor, jobs: Sequence[Job], draw: torch.Generator) -> Chosen:
    """The next token of each row: the likeliest at temperature 0, else drawn from the top TOP_K within top_p."""
    found_B_C, tokens_B_C = logits_B_V.topk(min(TOP_K, logits_B_V.shape[-1]))
    warm_B = torch.tensor([job.temperature for job in jobs], device=logits_B_V.device)
    shares_B_C = (found_B_C / warm_B.clamp(min=1e-4)[:, None]).softmax(-1)
    nucleus_B = torch.tensor([job.top_p for job in jobs], device=logits_B_V.device)
    shares_B_C = shares_B_C.masked_fill(shares_B_C.cumsum(-1) - shares_B_C > nucleus_B[:, None], 0.0)
    drawn_B_1 = torch.multinomial(shares_B_C, 1, generator=draw)
    place_B_1 = torch.where(warm_B[:, None] > 0, drawn_B_1, torch.zeros_like(drawn_B_1))
    logprobs_B = found_B_C.gather(1, place_B_1)[:, 0] - logits_B_V.logsumexp(-1)
    return Chosen(tokens_B_C.gather(1, place_B_1)[:, 0], logprobs_B)
