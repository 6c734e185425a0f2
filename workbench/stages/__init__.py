"""The stages, one file each: `run(context) -> None` reads the inputs' artifacts and writes its own files.

examples   the task's rows, with ids and splits
shots      which few-shot block serves the teacher best, measured on dev
sample     the teacher writes, the validators judge, in one loop
select     what passed -> the shard: recombination, duplicates, the leakage gate

Where the method asks for them:

attempt    the student of the round before answers first
assistant  a larger model learns the shard
label      it answers what no answer of a teacher passed for
capture    what a teacher, or the assistant, thinks of the rows' tokens

And then:

train      the shard -> an adapter
merge      adapter and base -> weights
export     weights -> GGUF files, each scored on dev through llama.cpp; the one that ships
evaluate   base, teacher, student and each GGUF on the same test rows
"""
