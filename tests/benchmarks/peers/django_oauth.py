"""Peer of `make bench`: django-oauth-toolkit on SQLite, one process under gunicorn. Runs in an environment of its own.

    python django_oauth.py prepare     make the database, the applications and one person
    gunicorn django_oauth:application  serve

Settings come from the environment: FOLDER (of the database), SECRET (of every application), PASSWORD (of the person).
"""

import os
import sys
from pathlib import Path

import django
from django.conf import settings

FOLDER = Path(os.environ["FOLDER"])
KEY = FOLDER / "oidc.pem"

if not KEY.exists():
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    KEY.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

settings.configure(
    SECRET_KEY="bench",
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": FOLDER / "peer.db",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    },
    # Client secrets hashed as idhub hashes them: fast, since they are random.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": KEY.read_text(),
        "SCOPES": {"openid": "OpenID", "jobs:run": "Jobs", "introspection": "Introspection"},
        "PKCE_REQUIRED": True,
    },
    LOGGING_CONFIG=None,
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402 - after set-up
from django.urls import include, path  # noqa: E402

urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]
application = get_wsgi_application()


def prepare() -> None:
    """Make the database and what is in it."""
    from datetime import timedelta

    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.utils import timezone
    from oauth2_provider.models import get_access_token_model, get_application_model

    call_command("migrate", verbosity=0)
    person = get_user_model().objects.create_user("employee", password=os.environ["PASSWORD"])
    application = get_application_model().objects.create(
        client_id="opaque",
        client_secret=os.environ["SECRET"],
        client_type="confidential",
        authorization_grant_type="client-credentials",
        name="opaque",
    )
    for token, scope in (("peer-person-token", "openid"), ("peer-introspection-token", "introspection")):
        get_access_token_model().objects.create(
            user=person,
            application=application,
            token=token,
            scope=scope,
            expires=timezone.now() + timedelta(days=1),
        )


if __name__ == "__main__" and sys.argv[1:] == ["prepare"]:
    prepare()
