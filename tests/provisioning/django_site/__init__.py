"""django-scim2's service provider on users and groups of Django, in a process of its own. Entry point: `serve`."""
