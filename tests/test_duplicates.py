"""Near duplicates: the bound that spares most texts the MinHash never hides one that is alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import duplicates
from workbench.duplicates import NearDuplicates

WORDS = st.lists(
    st.sampled_from(["set", "a", "timer", "for", "ten", "minutes", "wake", "me", "at", "seven"]), max_size=8
)


def grams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[at : at + 4] for at in range(max(1, len(padded) - 3))}


@settings(deadline=None)  # the first imports datasketch
@given(st.lists(WORDS, min_size=1, max_size=12), WORDS, st.sampled_from([0.5, 0.8, 0.9]))
def test_the_bound_hides_none_that_is_alike(rows: list[list[str]], asked: list[str], threshold: float) -> None:
    texts, text = [" ".join(row) for row in rows], " ".join(asked)
    bounded, unbounded = NearDuplicates(threshold), NearDuplicates(threshold)
    unbounded._grams |= grams(text)  # so that the bound lets it by
    for at, each in enumerate(texts):
        bounded.add(str(at), each)
        unbounded.add(str(at), each)
    alike = max(len(grams(text) & grams(each)) / len(grams(text) | grams(each)) for each in texts)
    if alike >= threshold:
        assert bounded.like(text) == unbounded.like(text)
    assert bounded.like(texts[0]) is not None, "a text is like itself"


def test_what_is_nowhere_near_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known = NearDuplicates(0.8)
    known.add("one", "set a timer for ten minutes")
    assert known.like("set a timer for ten minutes!") == "one"
    monkeypatch.setattr(duplicates, "_minhash", lambda grams: pytest.fail("it was looked for"))
    assert known.like("wake me at seven") is None
