"""The public surface of a task file is a list: a change here is a change for every task that was ever written."""

import workbench.validators

import workbench
from workbench import outputs


def test_what_a_task_file_may_import() -> None:
    assert workbench.__all__ == [
        "Calls", "Check", "Data", "Example", "Judged", "Probe", "Prompt", "Record", "Task", "accept", "reject", "task"
    ]  # fmt: skip
    assert workbench.validators.__all__ == [
        "apart", "asked", "cued", "equivalent", "executes", "grounded", "minutes", "number", "parses", "percent", "recomputes",
        "round_trip", "runs", "schema", "simple", "vote",
    ]  # fmt: skip


def test_every_name_is_there_and_is_documented() -> None:
    for module in (workbench, workbench.validators, outputs):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_the_examples_field_names_are_frozen() -> None:
    """They are in the stored artifacts."""
    assert list(workbench.Example.model_fields) == ["id", "input", "target", "split", "source", "group"]
    assert list(workbench.Check.model_fields) == ["validator", "outcome", "reason"]
    assert workbench.Judged._fields == ("example", "text", "value")
