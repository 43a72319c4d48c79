"""What was typed? cookiecutter drops answers to questions that it has not asked, and this template asks them later."""

from pathlib import Path

import click
from jinja2 import Environment
from jinja2.ext import Extension

TEMPLATE = Path(__file__).resolve().parent.parent  # now, before cookiecutter leaves the folder that a path is relative to


class Typed(Extension):
    """Lets the hook read `typed`: the answers of the command line, whether to ask for more, and where the template lies."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        command = click.get_current_context(silent=True)
        given = command.params if command else {}
        answers = given.get("extra_context")
        environment.globals["typed"] = {  # type: ignore[assignment]
            "template": str(TEMPLATE),
            "ask": not given.get("no_input", True),
            "answers": dict(answers) if isinstance(answers, dict) else {},
        }
