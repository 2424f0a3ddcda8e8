"""`python -m django_site.serve PORT`, with PROVIDER_TOKEN in the environment; everything is in memory."""

import sys
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings


class Quiet(WSGIRequestHandler):
    """Nothing on stderr."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def main(port: int) -> None:
    """Make the tables and serve until killed."""
    settings.configure(
        SECRET_KEY="of-a-test",
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        ROOT_URLCONF="django_site.site",
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_scim", "django_site"],
        AUTH_USER_MODEL="django_site.Account",
        MIDDLEWARE=["django_site.site.Bearer", "django_scim.middleware.SCIMAuthCheckMiddleware"],
        SCIM_SERVICE_PROVIDER={
            "NETLOC": f"127.0.0.1:{port}",
            "SCHEME": "http",
            "AUTHENTICATION_SCHEMES": [{"type": "oauthbearertoken", "name": "Bearer", "description": "Bearer"}],
            "GROUP_MODEL": "django_site.models.Team",
        },
    )
    django.setup()
    from django.contrib.auth.models import Group, Permission
    from django.contrib.contenttypes.models import ContentType
    from django.core.wsgi import get_wsgi_application
    from django.db import connection
    from django_site.models import Account, Team

    # The models name one another: without checking the keys in between, their order does not matter.
    with connection.schema_editor() as editor:
        for model in (ContentType, Permission, Group, Team, Account):
            editor.create_model(model)
    make_server("127.0.0.1", port, get_wsgi_application(), handler_class=Quiet).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
