"""What configuration says of a SCIM target beyond its address: mapping, adoption, groups, retention, pace, way out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from idhub.provisioning.outbound.mapping_rules import ApplicationMapping, compile_mapping

AdoptRule = Literal["external_id", "user_name", "email", "employee_number"]


@dataclass(frozen=True, slots=True)
class Adoption:
    """By what an account that exists already is found to be a person's.

    Args:
        automatic: rules by which it is taken over at once, when exactly one account fits and nothing contradicts.
        review: rules by which it is put before somebody, and nothing is made or taken over before they decide.
    """

    automatic: Sequence[AdoptRule] = ("external_id", "user_name")
    review: Sequence[AdoptRule] = ()


@dataclass(frozen=True, slots=True)
class WantedGroup:
    """A group that the application is to have: a group of the directory, or everybody in a role there."""

    kind: Literal["group", "role"]
    ref: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """The options of one target; what is not said has the default."""

    mapping: Mapping[str, str | None] = field(default_factory=dict)
    tests: Sequence[Mapping[str, Any]] = ()
    adopt: Adoption = field(default_factory=Adoption)
    groups: Sequence[WantedGroup] = ()
    delete_after: timedelta | None = None
    """How long an account that was switched off is kept before it is deleted; None: for ever."""
    requests_per_minute: int | None = None
    proxy: str | None = None
    """Address of the HTTP proxy through which the target is reached."""
    egress_address: str | None = None
    """Own address that connections to the target come from."""

    def document(self) -> dict[str, Any]:
        """What is stored: only what differs from the defaults."""
        adopt = {"automatic": list(self.adopt.automatic), "review": list(self.adopt.review)}
        said: dict[str, Any] = {
            "mapping": dict(self.mapping),
            "tests": [dict(test) for test in self.tests],
            "adopt": adopt if self.adopt != Adoption() else None,
            "groups": [{one.kind: one.ref, **({"name": one.name} if one.name else {})} for one in self.groups],
            "delete_after": int(self.delete_after.total_seconds()) if self.delete_after else None,
            "requests_per_minute": self.requests_per_minute,
            "proxy": self.proxy,
            "egress_address": self.egress_address,
        }
        return {name: value for name, value in said.items() if value not in (None, {}, [])}

    @classmethod
    def of_document(cls, document: Mapping[str, Any] | None) -> "TargetOptions":
        """Read what was stored; what a later version wrote beside is passed over."""
        held = document or {}
        adopt = held.get("adopt")
        seconds = held.get("delete_after")
        return cls(
            mapping=held.get("mapping") or {},
            tests=held.get("tests") or (),
            adopt=Adoption(tuple(adopt["automatic"]), tuple(adopt["review"])) if adopt else Adoption(),
            groups=[_group(one) for one in held.get("groups") or ()],
            delete_after=timedelta(seconds=seconds) if seconds else None,
            requests_per_minute=held.get("requests_per_minute"),
            proxy=held.get("proxy"),
            egress_address=held.get("egress_address"),
        )

    def compiled(self, user_name_attribute: str) -> ApplicationMapping:
        """The mapping, ready to be asked."""
        return compile_mapping(self.mapping, user_name_attribute=user_name_attribute)


def _group(one: Mapping[str, Any]) -> WantedGroup:
    kind: Literal["group", "role"] = "group" if "group" in one else "role"
    return WantedGroup(kind, one[kind], one.get("name"))
