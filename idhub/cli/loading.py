"""Where each command is, and the group that imports its module when it is asked for. Imports nothing heavy itself.

The rule: what a command needs is imported at the top of its module, and the module with the command. What only some
calls of a command need (an HTTP client, a server) is imported where it is used.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer.main
from typer.core import TyperGroup

MODULES: Mapping[str, tuple[str, ...]] = {
    "serve": ("serve", "worker", "migrate", "doctor"),
    "configure": ("apply", "export", "role", "keys"),
    "tokens": ("token",),
    "streams": ("stream",),
    "provisioning": ("provisioning",),
    "people": ("people",),
    "lifecycle": ("onboard", "move", "suspend", "reactivate", "offboard"),
    "receipts": ("receipt",),
    "reconcile": ("reconcile",),
    "findings": ("findings",),
    "certify": ("certify",),
    "audit": ("audit",),
    "recover": ("recover",),
}
"""Modules whose import registers these commands on `console.app`, in the order of the help."""
_MODULE_OF = {command: module for module, commands in MODULES.items() for command in commands}


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection: of what imports make all stays, and looking through it again costs a third of them.

    Nor is it looked through later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load_commands() -> None:
    """Import every command, for who lists them, or runs several in forks of one process."""
    _load(*MODULES)


def _load(*modules: str) -> None:
    with uncollected():
        for module in modules:
            import_module(f"idhub.cli.{module}")


class LazyCommands(TyperGroup):
    """The commands of `console.app`, each imported when it is looked up."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help; the help itself imports everything."""
        return list(_MODULE_OF)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None; an unknown name imports all, for the suggestion of a near one."""
        from idhub.cli.console import app

        if cmd_name not in self.commands:
            if cmd_name in _MODULE_OF:
                _load(_MODULE_OF[cmd_name])
            else:
                load_commands()
            self.commands = typer.main.get_group(app).commands
        return self.commands.get(cmd_name)
