"""`python -m workbench.edge.serve --model FILE …`: llama.cpp's own server (from xllamacpp) as a process of its own.

Started by `runtime.LlamaServer`; useful alone, too. When it is ready it writes one line of JSON to standard output,
`{"address": "http://127.0.0.1:PORT"}`; llama.cpp's log goes to standard error. It serves until it is
interrupted or, started by `LlamaServer`, until that closes the pipe to it or is gone.

What is set differently from llama.cpp's defaults, and why:

    fit_params off        a context that does not fit must fail, not shrink in silence
    cache_ram_mib 0       no second prompt cache in RAM (8 GiB by default); each slot still keeps its last prompt
    n_ctx_checkpoints 0   only of use to models with sliding-window or recurrent layers
    kv_unified off        a slot's context is its own; one long request cannot starve the others
    reasoning NONE        the reply is the model's text as it is, thoughts are not cut out: what is scored is what was
                          generated (`force_pure_content_parser` would be stronger, but then the server silently
                          ignores `response_format`)
    no UI, no CORS        nothing in a browser has any business here
"""

import argparse
import json
import signal
import sys
import threading
from importlib import import_module
from typing import Any

from workbench.edge import native
from workbench.edge.child import settle


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workbench.edge.serve", description="llama.cpp's server, one GGUF")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--alias", default="expert", help="the model's name in the API")
    parser.add_argument("--slots", type=int, default=1, help="requests decoded at the same time")
    parser.add_argument("--ctx-per-slot", type=int, default=2048, help="tokens of prompt and answer together")
    parser.add_argument("--threads", type=int, default=0, help="0: llama.cpp's choice")
    parser.add_argument("--batch", type=int, default=2048, help="prompt tokens read at once")
    parser.add_argument("--states", default="", help="a folder for saved states of slots")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    return parser.parse_args(argv)


def params(args: argparse.Namespace) -> Any:
    """The `xllamacpp.CommonParams` of these arguments."""
    xllamacpp = import_module("xllamacpp")
    p = xllamacpp.CommonParams()
    p.model.path = args.model
    p.model_alias = {args.alias}
    p.hostnames = ["127.0.0.1"]
    p.port = args.port
    p.n_parallel = args.slots
    p.n_ctx = args.slots * args.ctx_per_slot
    p.kv_unified = False
    p.n_batch = args.batch
    if args.threads > 0:
        p.cpuparams.n_threads = args.threads
        p.cpuparams_batch.n_threads = args.threads
    p.fit_params = False
    p.cache_prompt = True
    p.cache_idle_slots = False
    p.cache_ram_mib = 0
    p.n_ctx_checkpoints = 0
    if args.states:
        p.slot_save_path = f"{args.states}/"
        p.endpoint_slots = True
    p.use_jinja = True
    p.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    p.ui = False
    p.cors_origins = "http://127.0.0.1"
    p.cors_origins_explicit = True
    return p


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    settle()
    own = None
    try:
        if program := native.binary():
            own, address = native.start(program, args)
        else:
            server = import_module("xllamacpp").Server(params(args))
            address = server.listening_address
    except (RuntimeError, FileNotFoundError) as error:  # llama.cpp has said why on standard error
        print(f"workbench: {error}", file=sys.stderr, flush=True)
        return 1
    print(json.dumps({"address": address}), flush=True)
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    while not done.wait(0.5):  # in short waits, for a signal is seen between them only
        if own is not None and own.poll() is not None:
            return 1
    if own is not None:
        own.terminate()
        own.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
