"""The frame around a page: who looks at it, and which links they get. Only pages that exist and may be opened."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from idhub import __version__
from idhub.authority import HubRole
from idhub.pages import N_

_ROLE_LABELS: Mapping[HubRole, str] = {
    HubRole.HR: N_("HR"),
    HubRole.ADMINISTRATOR: N_("Administrator"),
    HubRole.AUDITOR: N_("Auditor (read only)"),
}
_EVERY_ROLE = frozenset(HubRole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link of a frame. `key` is pressed after `g`."""

    href: str
    label: str
    icon: str
    current: bool = False
    key: str = ""
    count: int | None = None
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Links of a side bar under one heading."""

    label: str
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What `console.html` and `employee.html` need to know of the person."""

    name: str
    role_label: str
    groups: tuple[Group, ...] = ()
    employee_links: tuple[Link, ...] = ()
    self_links: tuple[Link, ...] = ()
    search: str = ""
    version: str = field(default=__version__)


@dataclass(frozen=True, slots=True)
class _Entry:
    href: str
    label: str
    icon: str
    roles: frozenset[HubRole]
    key: str = ""
    also: tuple[str, ...] = ()
    """Beginnings of further addresses that belong to it."""


_CONSOLE: tuple[tuple[str, tuple[_Entry, ...]], ...] = (
    (
        N_("People"),
        (
            _Entry("/hr/people", N_("People"), "users", _EVERY_ROLE, "p", also=("/hr/offboarding/",)),
            _Entry("/hr/receipts", N_("Receipts"), "receipt", _EVERY_ROLE, "r"),
            _Entry("/hr/sources", N_("HR source"), "download", _EVERY_ROLE, "h"),
        ),
    ),
    (
        N_("Applications"),
        (
            _Entry("/admin/apps", N_("Applications"), "apps", frozenset({HubRole.ADMINISTRATOR, HubRole.AUDITOR}), "a"),
            _Entry(
                "/admin/providers",
                N_("Company sign-in"),
                "building",
                frozenset({HubRole.ADMINISTRATOR, HubRole.AUDITOR}),
            ),
            _Entry(
                "/admin/deliveries", N_("Deliveries"), "send", frozenset({HubRole.ADMINISTRATOR, HubRole.AUDITOR}), "d"
            ),
            _Entry(
                "/admin/streams",
                N_("Event receivers"),
                "bolt",
                frozenset({HubRole.ADMINISTRATOR, HubRole.AUDITOR}),
            ),
        ),
    ),
    (
        N_("Verification"),
        (
            _Entry("/admin/ghosts", N_("Account match"), "git-compare", _EVERY_ROLE, "m"),
            _Entry("/audit/events", N_("Event log"), "list-search", frozenset({HubRole.AUDITOR}), "e"),
        ),
    ),
)

_EMPLOYEE: tuple[_Entry, ...] = (
    _Entry("/", N_("Applications"), "apps", frozenset()),
    _Entry("/account", N_("My account"), "user", frozenset()),
)


def build_frame(name: str, roles: Iterable[HubRole], path: str, translate: Callable[[str], str]) -> Frame:
    """The frame for this person on this page.

    Args:
        roles: hub roles held now; decide which links appear. Every page asks `authorize` again by itself.
        path: of the page; marks the current link.
    """
    held = frozenset(roles)
    groups = tuple(
        Group(translate(label), tuple(_link(entry, path, translate) for entry in entries if entry.roles & held))
        for label, entries in _CONSOLE
    )
    label = " · ".join(translate(_ROLE_LABELS[role]) for role in HubRole if role in held)
    console = next((group.links[0] for group in groups if group.links), None)
    self_links = [_link(entry, path, translate) for entry in _EMPLOYEE]
    if console is not None:
        self_links.append(Link(href=console.href, label=translate(N_("Console")), icon="layout-dashboard"))
    return Frame(
        name=name,
        role_label=label or translate(N_("Employee")),
        groups=tuple(group for group in groups if group.links),
        employee_links=tuple(self_links),
        self_links=tuple(self_links),
        search="/hr/people" if held else "",
    )


def _link(entry: _Entry, path: str, translate: Callable[[str], str]) -> Link:
    current = path == entry.href or (entry.href != "/" and path.startswith((entry.href + "/", *entry.also)))
    return Link(href=entry.href, label=translate(entry.label), icon=entry.icon, current=current, key=entry.key)
