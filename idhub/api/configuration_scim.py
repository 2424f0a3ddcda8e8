"""`scim:` of an application in a configuration file: its form, and what it means for the target."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from idhub.access.applications import Difference
from idhub.access.tables import Application, ScimTarget
from idhub.access.uris import check_web_uri
from idhub.api.configuration_fields import Strict, Text, Uri, duration
from idhub.changes import Actor
from idhub.delivery.holds import probe_now
from idhub.directory.people import find_person
from idhub.directory.tables import Group
from idhub.errors import Conflict, Invalid, NotFound
from idhub.provisioning.outbound import sync
from idhub.provisioning.outbound.discovering import attributes_of
from idhub.provisioning.outbound.groups import set_wanted
from idhub.provisioning.outbound.mapping import PersonFacts
from idhub.provisioning.outbound.mapping_rules import ApplicationMapping, check_against, compile_mapping
from idhub.provisioning.outbound.options import Adoption, TargetOptions, WantedGroup
from idhub.provisioning.outbound.planner import CHANNEL
from idhub.provisioning.outbound.preview import MappingTest, facts_of, run_test
from idhub.provisioning.outbound.records import person_facts
from idhub.provisioning.outbound.tables import ScimDiscovery
from scim.dialects import DIALECTS

AdoptRules = list[Literal["external_id", "user_name", "email", "employee_number"]]


class AdoptBlock(Strict):
    """`adopt:` of a SCIM target."""

    automatic: AdoptRules = Field(default=["external_id", "user_name"], max_length=4)
    review: AdoptRules = Field(default_factory=list, max_length=4)


class GroupBlock(Strict):
    """One entry of `groups:` of a SCIM target."""

    group: Text | None = None
    role: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")] | None = None
    name: Text | None = None


class MappingTestBlock(Strict):
    """One entry of `tests:` of a SCIM target."""

    person: Text | dict[str, str | list[str] | None]
    expect: dict[str, Any] = Field(min_length=1, max_length=200)


class ScimBlock(Strict):
    """`scim:` of an application."""

    base_url: Uri
    token_file: Text | None = None
    user_name: Literal["email", "employee_number"] = "email"
    dialect: Text = "generic"
    control_user_name: Text | None = None
    mapping: dict[str, Annotated[str, Field(max_length=2_000)] | None] = Field(default_factory=dict, max_length=200)
    tests: list[MappingTestBlock] = Field(default_factory=list, max_length=200)
    adopt: AdoptBlock | None = None
    groups: list[GroupBlock] = Field(default_factory=list, max_length=2_000)
    delete_after: str | int | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=600_000)] | None = None
    proxy: Uri | None = None
    egress_address: Text | None = None
    token_expires_on: date | None = None

    @field_validator("dialect")
    @classmethod
    def _dialect_is_known(cls, value: str) -> str:
        if value not in DIALECTS:
            raise PydanticCustomError("dialect", "must be one of {names}", {"names": ", ".join(DIALECTS)})
        return value


def target_options(
    session: Session, block: ScimBlock, slug: str, base_url: str, where: str, *, now: datetime
) -> TargetOptions:
    """The options of a target, checked: expressions, types against the target's schema, tests, groups.

    Raises:
        IdhubError: `field` is the place in the file, and the sentence names the rule that it breaks.
    """
    application_id = session.scalar(select(Application.id).where(Application.slug == slug))
    mapping = _checked_mapping(session, block, application_id, base_url, where)
    _run_tests(session, block.tests, mapping, application_id, where, now=now)
    adopt = Adoption()
    if block.adopt is not None:
        both = sorted({*block.adopt.automatic} & {*block.adopt.review})
        if both:
            raise Invalid(
                f"{where}.adopt: {both[0]} is either automatic or for review.",
                field=f"{where}.adopt",
                rule="adopt.repeated",
            )
        adopt = Adoption(tuple(block.adopt.automatic), tuple(block.adopt.review))
    return TargetOptions(
        mapping=block.mapping,
        tests=[test.model_dump(exclude_none=True) for test in block.tests],
        adopt=adopt,
        groups=_groups(session, block, f"{where}.groups"),
        delete_after=duration(block.delete_after, f"{where}.delete_after"),
        requests_per_minute=block.requests_per_minute,
        proxy=check_web_uri(block.proxy, field=f"{where}.proxy") if block.proxy else None,
        egress_address=_address(block.egress_address, f"{where}.egress_address"),
    )


_NEW_ATTRIBUTES = frozenset({"scim.mapping", "scim.user_name_attribute", "scim.dialect", "scim.base_url"})
_NEW_WAY = frozenset({"scim.token", "scim.base_url", "scim.proxy", "scim.egress_address"})


def follow_target(session: Session, difference: Difference, *, now: datetime, actor: Actor, door: str) -> None:
    """What follows from a target's new configuration: groups, a run over all accounts, a look whether it works now."""
    target = session.execute(
        select(ScimTarget.options).where(ScimTarget.application_id == difference.application_id)
    ).one()
    set_wanted(session, difference.application_id, TargetOptions.of_document(target.options).groups, now=now)
    changed = {name for name, _, _ in difference.changes}
    if changed & _NEW_WAY:
        probe_now(session, difference.application_id, CHANNEL, now=now)
    if changed & _NEW_ATTRIBUTES and not difference.is_new:
        # Accounts there were made by the mapping before: a run that is under way may have passed some already.
        with suppress(Conflict):
            sync.take_step(session, difference.application_id, "cancel", now=now, actor=actor, door=door)
        sync.start(session, difference.application_id, now=now, actor=actor, door=door)


def _checked_mapping(
    session: Session, block: ScimBlock, application_id: str | None, base_url: str, where: str
) -> ApplicationMapping:
    discovery = session.get(ScimDiscovery, application_id) if application_id is not None else None
    if discovery is not None and discovery.base_url != base_url:
        discovery = None
    try:
        mapping = compile_mapping(block.mapping, user_name_attribute=block.user_name)
        check_against(mapping, attributes_of(discovery))
    except Invalid as error:
        raise Invalid(
            f"{where}.mapping: {error.description}", field=f"{where}.mapping.{error.field}", rule=error.rule
        ) from error
    return mapping


def _run_tests(
    session: Session,
    tests: Sequence[MappingTestBlock],
    mapping: ApplicationMapping,
    application_id: str | None,
    where: str,
    *,
    now: datetime,
) -> None:
    for number, test in enumerate(tests):
        place = f"{where}.tests.{number}"
        try:
            facts = _facts(session, test, application_id, now=now)
            run_test(mapping, MappingTest(facts, test.expect))
        except (Invalid, NotFound, Conflict) as error:
            raise type(error)(
                f"{place}: {error.description}", field=f"{place}.{error.field or 'person'}", rule=error.rule
            ) from error


def _facts(session: Session, test: MappingTestBlock, application_id: str | None, *, now: datetime) -> PersonFacts:
    if not isinstance(test.person, str):
        return facts_of(test.person)
    principal_id = find_person(session, test.person)
    found = person_facts(session, principal_id, application_id or "", now=now)
    if found is None:
        raise NotFound("There is no such person.", field="person", rule="person.unknown")
    return found


def _groups(session: Session, block: ScimBlock, where: str) -> list[WantedGroup]:
    wanted: list[WantedGroup] = []
    for number, one in enumerate(block.groups):
        place = f"{where}.{number}"
        if (one.group is None) == (one.role is None):
            raise Invalid(f"{place}: name a group or a role.", field=place, rule="group.source")
        if one.role is not None:
            wanted.append(WantedGroup("role", one.role, one.name))
            continue
        found = session.execute(
            select(Group.id).where(Group.ended_at.is_(None), or_(Group.id == one.group, Group.name == one.group))
        ).scalar_one_or_none()
        if found is None:
            raise NotFound(f"{place}: there is no group {one.group!r}.", field=f"{place}.group", rule="group.unknown")
        wanted.append(WantedGroup("group", found, one.name))
    sources = [(one.kind, one.ref) for one in wanted]
    repeated = next((index for index, one in enumerate(sources) if one in sources[:index]), None)
    if repeated is not None:
        raise Invalid(f"{where}.{repeated}: it stands twice.", field=f"{where}.{repeated}", rule="group.repeated")
    if wanted and DIALECTS[block.dialect].groups == "none":
        raise Invalid(f"{where}: a {block.dialect} service has no groups.", field=where, rule="group.unsupported")
    return wanted


def _address(text: str | None, where: str) -> str | None:
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise Invalid(f"{where} must be an IP address of this machine.", field=where, rule="address") from error
