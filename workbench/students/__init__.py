"""Students: a base model in, a LoRA adapter out, a merged folder at the end. Path in, path out.

The walk, in order (import from the modules: this one stays empty, so that nobody pays for torch by accident):

    base = prepare_base(gguf_or_folder, cache)             load.py       a Hugging Face folder of plain bf16 weights
    words = rendering_for(base)                            rendering.py  how prompts and answers become text; no torch
    adapter = train(base, rows, dev, config, work, tell)   qlora.py      QLoRA that survives kill -9
    folder = merge(base, adapter, out, onto="quantized")   merge.py      adapter + weights, ready for edge/
    exact, loss = dev_exact(folder, dev)                   merge.py      greedy exact match without generating

Beside it: settings.py (TrainConfig, Pair, Progress; pydantic only), batches.py (rows -> ids -> batches), subwords.py (rare
words in pieces), packed.py (through the model without their padding), lora.py and norms.py (layers as one step of the
tape), losses.py (completion-only loss and the dev score), attention.py, prepacked.py and generate.py (many answers at once: the
white-box teacher), masters.py (bf16 compute, fp32 master weights), schedule.py (learning rate, and how many steps fit into the
minutes), checkpoint.py (one file, written aside and renamed).

Before it, for a smaller student: prune.py (blocks and neurons, by measured importance), vocabulary.py (tokens that the task
does not need), folders.py (a folder's tensors and settings, without a model).

What it does not do: train more than the LoRA matrices, use more than one GPU.
"""
