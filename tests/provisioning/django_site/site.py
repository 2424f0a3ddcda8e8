"""What Django looks for by name: addresses, and who asks."""

import os
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.urls import include, path

urlpatterns = [path("scim/v2/", include("django_scim.urls", namespace="scim"))]


class Bearer:
    """Whoever knows the token is somebody."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        from django_site.models import Account

        known = request.headers.get("Authorization") == f"Bearer {os.environ['PROVIDER_TOKEN']}"
        request.user = Account(username="hub") if known else AnonymousUser()
        return self.get_response(request)
