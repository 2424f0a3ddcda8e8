"""Where each command is, and the import of its module when it is asked for. Imports nothing heavy itself.

The rule: what a command needs is imported at the top of its module, and the module with the command. What only some
calls of a command need (an HTTP client, a server) is imported where it is used.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

MODULES: Mapping[str, tuple[str, ...]] = {
    "serve": ("serve", "worker", "migrate", "doctor"),
    "configure": ("apply", "export", "role", "keys"),
    "tokens": ("token",),
    "credentials": ("credentials",),
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
MODULE_OF = {command: module for module, commands in MODULES.items() for command in commands}
"""Command -> its module."""


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


def load_commands(*names: str) -> None:
    """Import the modules of these commands; of all without a name, for who lists them or runs several in forks."""
    with uncollected():
        for module in {MODULE_OF[name]: None for name in names} or MODULES:
            import_module(f"idhub.cli.{module}")
