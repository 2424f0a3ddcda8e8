"""Closed sets of the directory: kinds and states. Pure: decision modules import them without meeting a database."""

from enum import StrEnum


class PrincipalKind(StrEnum):
    """What can act."""

    PERSON = "person"
    SERVICE = "service"
    DEVICE = "device"


class Standing(StrEnum):
    """Whether a principal may act at all."""

    STAGED = "staged"
    """Known, access not begun."""
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Access held back; factors survive."""
    LEFT = "left"


class EmploymentType(StrEnum):
    """Kinds of employment that the HR file names."""

    REGULAR = "regular"
    CONTRACTOR = "contractor"
    INTERN = "intern"
    DISPATCHED = "dispatched"


class EmploymentState(StrEnum):
    """State of one employment; the principal's standing follows from all of them."""

    STAGED = "staged"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"


class OrganizationKind(StrEnum):
    """Kinds of organization; dealers and suppliers are external."""

    GROUP = "group"
    COMPANY = "company"
    SUBSIDIARY = "subsidiary"
    DEALER = "dealer"
    SUPPLIER = "supplier"
