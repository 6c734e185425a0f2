"""Arguments and options that several verbs have."""

from pathlib import Path
from typing import Annotated

import typer

TaskArg = Annotated[str, typer.Argument(help="A task's name, or the path of its Python file.")]
ProfileOpt = Annotated[
    str, typer.Option(help="quick or full; without, what --config names, else the verb's own.", show_default=False)
]
TeacherOpt = Annotated[
    str, typer.Option(help="A model of the catalogue, a GGUF file, hf:NAME, or a server's model.", show_default=False)
]
StudentOpt = Annotated[
    str, typer.Option(help="A model of the catalogue, a GGUF file, a folder or a hub id.", show_default=False)
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, as in train.lr=0.0005; `workbench settings` shows them all."),
]
ConfigOpt = Annotated[Path | None, typer.Option(help="A TOML file of settings, such as a run's config.toml.")]
MethodOpt = Annotated[
    str,
    typer.Option(
        help="sft, the default: from the teacher's text; qat: from that, at last rounded as it ships; "
        "kd: from its distributions too; gkd, dagger: from what the student itself says; "
        "assistant: from what a larger model makes of other inputs; parent: from a larger model's distributions.",
        show_default=False,
    ),
]
DryOpt = Annotated[bool, typer.Option("--dry-run", help="Look everything over, say what would run, and do nothing.")]
AcceptOpt = Annotated[
    list[str] | None, typer.Option(help="Name of a teacher's terms that you accept; `licences` lists them.")
]
