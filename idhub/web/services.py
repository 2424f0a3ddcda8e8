"""What pages are handed by the application that composes them."""

from typing import Protocol

from idhub.gateway import HubServices
from idhub.pages import Pages


class WebServices(HubServices, Protocol):
    """The part of `idhub.app.Services` that pages use."""

    @property
    def pages(self) -> Pages:
        """What renders."""
