"""`anypool completion`: what a shell needs in order to complete commands, options and backends."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from anypool.cli._command import Command
from anypool.cli._output import OK, write_text

__all__ = ["completion"]

_EPILOG = """
Examples:
  eval "$(anypool completion bash)"                         in ~/.bashrc
  eval "$(anypool completion zsh)"                          in ~/.zshrc
  anypool completion fish > ~/.config/fish/completions/anypool.fish

Exit status: 0 written; 2 wrong use
"""

# The name by which the written script asks the command; click derives the same one from the program's name.
_VARIABLE = "_ANYPOOL_COMPLETE"


@click.command(cls=Command, epilog=_EPILOG, short_help="Print the script with which a shell completes anypool.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the script with which a shell completes commands, options and names of backends."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    write_text(found(ctx.find_root().command, {}, "anypool", _VARIABLE).source())
    return OK
