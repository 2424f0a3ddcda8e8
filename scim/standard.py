"""The resource types of RFC 7643: User (section 4.1), its enterprise extension (4.3) and Group (4.2).

Left out on purpose: `password` (people choose their own, by a one-time link) and `x509Certificates` (never looked at,
so never stored). What a sender says of them is passed over, like any attribute that the type does not have.
"""

from __future__ import annotations

from typing import Final

from scim.attributes import Attribute, ResourceType, Schema, valued
from scim.schemas import ENTERPRISE_USER, GROUP, USER


def _text(name: str, description: str) -> Attribute:
    return Attribute(name=name, description=description)


_PHOTO: Final = Attribute(
    name="value", type="reference", description="Address of the photo.", case_exact=True, reference_types=("external",)
)

USER_SCHEMA: Final = Schema(
    id=USER,
    name="User",
    description="A person's account",
    attributes=(
        Attribute(
            name="userName",
            description="What the person signs in with; unique without regard to case.",
            required=True,
            uniqueness="server",
        ),
        Attribute(
            name="name",
            type="complex",
            description="Parts of the name.",
            sub_attributes=(
                _text("formatted", "The whole name, as it is shown."),
                _text("familyName", "Family name."),
                _text("givenName", "Given name."),
                _text("middleName", "Middle names."),
                _text("honorificPrefix", "Titles before the name."),
                _text("honorificSuffix", "Suffixes behind the name."),
            ),
        ),
        _text("displayName", "The name to show."),
        _text("nickName", "How the person is called."),
        Attribute(
            name="profileUrl",
            type="reference",
            description="Address of a page about the person.",
            case_exact=True,
            reference_types=("external",),
        ),
        _text("title", "Title of the post."),
        _text("userType", "Relation to the organization, such as Employee or Contractor."),
        _text("preferredLanguage", "Preferred language, as in Accept-Language."),
        _text("locale", "Locale for dates and numbers."),
        _text("timezone", "Time zone, such as Asia/Shanghai."),
        Attribute(name="active", type="boolean", description="Whether the person may have access."),
        valued("emails", "Mail addresses.", types=("work", "home", "other")),
        valued("phoneNumbers", "Telephone numbers.", types=("work", "home", "mobile", "fax", "pager", "other")),
        valued("ims", "Instant messaging addresses."),
        valued("photos", "Photos.", types=("photo", "thumbnail"), value=_PHOTO),
        Attribute(
            name="addresses",
            type="complex",
            multi_valued=True,
            description="Postal addresses.",
            sub_attributes=(
                _text("formatted", "The whole address."),
                _text("streetAddress", "Street and number."),
                _text("locality", "City."),
                _text("region", "Province or state."),
                _text("postalCode", "Postal code."),
                _text("country", "Country by ISO 3166-1 alpha-2."),
                Attribute(
                    name="type", description="What the address is for.", canonical_values=("work", "home", "other")
                ),
                Attribute(name="primary", type="boolean", description="Whether it is preferred; true at most once."),
            ),
        ),
        Attribute(
            name="groups",
            type="complex",
            multi_valued=True,
            description="Groups that the person belongs to; changed through the groups.",
            mutability="readOnly",
            sub_attributes=(
                Attribute(name="value", description="Identifier of the group.", mutability="readOnly"),
                Attribute(
                    name="$ref",
                    type="reference",
                    description="Address of the group.",
                    case_exact=True,
                    mutability="readOnly",
                    reference_types=("Group",),
                ),
                Attribute(name="display", description="Name of the group.", mutability="readOnly"),
                Attribute(
                    name="type",
                    description="Whether the person is named or belongs by a rule.",
                    mutability="readOnly",
                    canonical_values=("direct", "indirect"),
                ),
            ),
        ),
        valued("entitlements", "Entitlements, as the client knows them."),
        valued("roles", "Roles, as the client knows them."),
    ),
)

ENTERPRISE_SCHEMA: Final = Schema(
    id=ENTERPRISE_USER,
    name="EnterpriseUser",
    description="What an employer knows of a person",
    attributes=(
        _text("employeeNumber", "Number that the employer gave; unique in a company."),
        _text("costCenter", "Cost centre."),
        _text("organization", "Company."),
        _text("division", "Division."),
        _text("department", "Department; a path with / where it has parents."),
        Attribute(
            name="manager",
            type="complex",
            description="The manager.",
            sub_attributes=(
                Attribute(name="value", description="Identifier of the manager's User.", case_exact=True),
                Attribute(
                    name="$ref",
                    type="reference",
                    description="Address of the manager's User.",
                    case_exact=True,
                    reference_types=("User",),
                ),
                Attribute(
                    name="displayName", description="Name of the manager.", mutability="readOnly", returned="request"
                ),
            ),
        ),
    ),
)

GROUP_SCHEMA: Final = Schema(
    id=GROUP,
    name="Group",
    description="A set of people",
    attributes=(
        Attribute(name="displayName", description="Name of the group.", required=True, uniqueness="server"),
        Attribute(
            name="members",
            type="complex",
            multi_valued=True,
            description="Who belongs to the group.",
            sub_attributes=(
                Attribute(
                    name="value", description="Identifier of the member.", case_exact=True, mutability="immutable"
                ),
                Attribute(
                    name="$ref",
                    type="reference",
                    description="Address of the member.",
                    case_exact=True,
                    mutability="immutable",
                    reference_types=("User",),
                ),
                Attribute(
                    name="type",
                    description="What the member is.",
                    mutability="immutable",
                    canonical_values=("User",),
                ),
                Attribute(name="display", description="Name of the member.", mutability="readOnly"),
            ),
        ),
    ),
)

USER_TYPE: Final = ResourceType(
    name="User",
    endpoint="/Users",
    description="People's accounts",
    schema=USER_SCHEMA,
    extensions=(ENTERPRISE_SCHEMA,),
)
GROUP_TYPE: Final = ResourceType(name="Group", endpoint="/Groups", description="Groups", schema=GROUP_SCHEMA)
