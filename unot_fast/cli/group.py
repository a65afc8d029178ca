"""The group of commands; each is imported when it is called, so that ``--help`` stays quick."""

from __future__ import annotations

import importlib

import click

from unot_fast._version import __version__

_COMMANDS = {
    "solve": "Transport one picture onto another.",
    "pairwise": "Matrix of distances between all pictures of a folder.",
    "train": "Train a transport network.",
    "evaluate": "Starts and networks by the published protocol.",
    "neural-ot": "Transport maps learned from samples.",
    "color-transfer": "Give a picture the colours of another.",
    "info": "Versions, hardware and backends.",
    "demo": "Starts and peers compared on real pictures.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        return importlib.import_module(f"unot_fast.cli.{name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(__version__, prog_name="unot-fast")
def group() -> None:
    """Exact optimal transport on grids."""
