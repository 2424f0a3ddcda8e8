"""What pages are handed by the application that composes them."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from idhub.credentials.journal import Journal
from idhub.db import Database
from idhub.keys import Keyring
from idhub.pages import Pages
from idhub.settings import Settings


class WebServices(Protocol):
    """The part of `idhub.app.Services` that pages use."""

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""

    @property
    def database(self) -> Database:
        """The one database."""

    @property
    def keyring(self) -> Keyring:
        """Keys by purpose."""

    @property
    def pages(self) -> Pages:
        """What renders."""

    @property
    def journal(self) -> Journal:
        """Counts refusals of nobody in particular."""

    @property
    def clock(self) -> Callable[[], datetime]:
        """The present, aware UTC. Routes read it once and hand it down as `now`."""
