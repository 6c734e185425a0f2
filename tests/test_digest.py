"""The digest format, frozen with literal values: a change makes every stored artifact unreachable."""

import hashlib
from pathlib import Path

import pytest
from pydantic import BaseModel

from workbench.digest import canonical_json, digest, file_digest, tree_digest


class Pair(BaseModel):
    b: int
    a: str


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [None, True, 1.5]}, '{"a":[null,true,1.5],"b":1}'),
        ({"größe": "🙂"}, '{"größe":"🙂"}'),
        (("x", 'y"\n'), '["x","y\\"\\n"]'),
        (Pair(b=1, a="x"), '{"a":"x","b":1}'),
        ({"p": Path("a/b")}, '{"p":"a/b"}'),
        (1.0, "1.0"),
        ({}, "{}"),
    ],
)
def test_one_spelling_for_each_value(value: object, text: str) -> None:
    assert canonical_json(value) == text


def test_the_digests_are_frozen() -> None:
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert digest({"text": "timer 10 minutes"}) == "893aedb79e3b1f380b7e84ba4b78187df382936ab500c54b453bdce2daaf3905"
    assert (
        digest({"b": 1, "a": [None, True, 1.5, "größe 🙂"]})
        == "d8dc1ed38d59a923e813a6aff636dd0427986ed5467597d2aeb3c7c24023f659"
    )
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) != digest({"a": 1, "b": 2})
    assert digest(1) != digest(1.0) != digest("1")


def test_what_has_no_json_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
    with pytest.raises(TypeError, match="object has no canonical JSON form"):
        canonical_json(object())
    with pytest.raises(TypeError, match="set has no"):
        digest({"a": {1}})


def test_files_and_trees(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    assert file_digest(a) == hashlib.sha256(b"one").hexdigest()
    assert tree_digest([a, b]) == tree_digest([b, a])
    assert tree_digest([a, b]) == "38fbf2c3386dacbeff657409e57fd9cc1984a07f0f679380c1b0631d4e6de36b"
    b.write_bytes(b"2")
    assert tree_digest([a, b]) != "38fbf2c3386dacbeff657409e57fd9cc1984a07f0f679380c1b0631d4e6de36b"
