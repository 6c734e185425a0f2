"""Teachers: the models that are imitated.

    base.py         the seam: one method, `complete`
    api.py          any OpenAI-compatible server, through `openai`'s async client
    posted.py       the same from a process of its own, post.py, that outlives a killed run
    embedded.py     a GGUF file in llama.cpp's own server on this machine
    whitebox.py     a transformers model in this process
    scripted.py     a teacher that follows a script, for tests
    asker.py        the ledger before the teacher: budget, retries, the same question never twice
    pace.py         how many requests are under way, and how fast they leave
    recorder.py     replies into the ledger, many in one commit
    slots.py        a few-shot block is read once for all slots of a llama.cpp server
    prompts.py      dspy signatures and the adapter that turns them into messages; few-shot blocks
    build.py        a config -> a teacher

Every teacher gives its licence: whether its outputs may train a model is part of the report.
"""
