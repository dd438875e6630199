"""The shape of a command: help whose last part is printed as written, and a help text for each exit status."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from anypool._options import did_you_mean

__all__ = ["SETTINGS", "Command", "Group", "Interrupted", "json_option"]

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _AsWritten(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit statuses without joining their lines."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write(textwrap.dedent(self.epilog).strip("\n") + "\n")


class Command(_AsWritten):
    """One command."""


class Interrupted(Exception):
    """Ctrl-C, as click does not see it: it would write an empty line before anything can be said."""


class Group(_AsWritten, click.Group):
    """The command that has commands, and says which one was nearly meant."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            raise Interrupted from exc

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with, its name and the rest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"there is no command {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
