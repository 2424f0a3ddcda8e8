"""The models that the library asks for; what it keeps, understands and answers is its own."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django_scim.models import AbstractSCIMGroupMixin, AbstractSCIMUserMixin


class Team(AbstractSCIMGroupMixin):  # type: ignore[misc]  # the library is untyped
    """A group."""

    name = models.CharField(max_length=200, unique=True)

    class Meta:
        app_label = "django_site"


class Account(AbstractSCIMUserMixin, AbstractUser):  # type: ignore[misc]  # the library is untyped
    """A user."""

    scim_groups = models.ManyToManyField(Team, related_name="user_set")

    class Meta:
        app_label = "django_site"
