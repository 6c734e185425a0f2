"""Where training examples come from. A task names the sources it wants; each new pair goes through the same validators.

seed        the author's own rows, as they are
recombine   seeds with their values exchanged, two said in one breath, another spelling; costs no call
inverse     a valid answer first (the teacher writes answers in the manner of the seeds, values are exchanged), then
            the teacher writes the input that asks for it: the answer is right by construction, and the check is that
            the input really says it
forward     the teacher writes new inputs in the manner of the seeds, then answers them
corpus      the user's own unlabelled inputs, answered by the teacher
"""
