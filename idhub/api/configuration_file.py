"""The form of a configuration file, and how one is read: fields, their limits, YAML without surprises.

What it comes to is `idhub.api.configuration`.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from idhub.api.configuration_cas import CasBlock
from idhub.api.configuration_fields import Name, Names, Strict, Text, Uri, no_nul
from idhub.api.configuration_providers import SLUG, ProviderBlock
from idhub.api.configuration_saml import SamlBlock
from idhub.api.configuration_scim import ScimBlock
from idhub.api.configuration_wsfed import WsfedBlock
from idhub.directory.calendar import FIRST_YEAR, LAST_YEAR
from idhub.errors import Invalid
from idhub.provisioning.inbound.extensions import MAX_EXTENSIONS

MAX_BYTES = 5_000_000
Grade = Literal["E0", "E1", "E2", "E3"]


class OidcBlock(Strict):
    """`oidc:` of an application."""

    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{1,100}$")]
    client_secret_file: Text | None = None
    public: bool = False
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    redirect_uris: list[Uri] = Field(default_factory=list, max_length=50)
    post_logout_redirect_uris: list[Uri] = Field(default_factory=list, max_length=50)
    backchannel_logout_uri: Uri | None = None
    scopes: list[Annotated[str, Field(pattern=r"^[!#-\[\]-~]{1,100}$")]] = Field(
        default_factory=lambda: ["openid", "profile", "email", "organization", "offline_access"], max_length=50
    )
    grant_types: list[Literal["authorization_code", "refresh_token", "client_credentials"]] | None = None
    access_token: Literal["jwt", "opaque"] = "jwt"  # noqa: S105
    access_token_lifetime: str | int | None = None
    id_token_alg: Literal["ES256", "RS256"] = "ES256"  # noqa: S105
    audience: Text | None = None
    rotate_refresh: bool = True
    requires_consent: bool = False
    native: bool = False
    sector: Text | None = None
    service_until: date | None = None

    @field_validator("service_until")
    @classmethod
    def _service_ends_within_reach(cls, value: date | None) -> date | None:
        if value is not None and not FIRST_YEAR <= value.year <= LAST_YEAR:
            raise PydanticCustomError(
                "date_range", "must lie between {first} and {last}", {"first": FIRST_YEAR, "last": LAST_YEAR}
            )
        return value


class ReconcileBlock(Strict):
    """`reconcile:` of an application."""

    every: str | int = "1d"
    policy: Literal["report", "ask", "disable"] = "report"
    service_accounts: list[Text] = Field(default_factory=list, max_length=1_000)


class RuleBlock(Strict):
    """One entry of `entitle:`."""

    role: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
    rule: Annotated[str, Field(min_length=1, max_length=10_000)]


class ApplicationBlock(Strict):
    """One application of the file."""

    slug: Annotated[str, Field(pattern=SLUG)]
    name: Names | Name
    description: Annotated[str, Field(max_length=2_000), AfterValidator(no_nul)] | None = None
    home_url: Uri | None = None
    organization: Text | None = None
    owner: Text | None = None
    criticality: Literal["low", "normal", "high", "critical"] = "normal"
    revocation_deadline: str | int | None = None
    required_evidence: Grade | None = None
    enabled: bool = True
    oidc: OidcBlock | None = None
    scim: ScimBlock | None = None
    reconcile: ReconcileBlock | None = None
    saml: SamlBlock | None = None
    wsfed: WsfedBlock | None = None
    cas: CasBlock | None = None
    entitle: list[RuleBlock] = Field(default_factory=list, max_length=200)


class ConfigurationFile(Strict):
    """The whole file."""

    applications: list[ApplicationBlock] = Field(default_factory=list, max_length=2_000)
    providers: list[ProviderBlock] = Field(default_factory=list, max_length=200)
    scim_extensions: list[dict[str, Any]] = Field(default_factory=list, max_length=MAX_EXTENSIONS)


class _NoDuplicates(yaml.SafeLoader):
    """YAML without repeated keys and without aliases that multiply."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_configuration(path: Path) -> ConfigurationFile:
    """Read and check the form of a configuration file.

    Raises:
        Invalid: unreadable, not YAML, or a field breaks its rule; the sentence names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} cannot be read.", field="file", rule="file.unreadable") from error
    if len(content) > MAX_BYTES:
        raise Invalid(f"{path} is larger than {MAX_BYTES} bytes.", field="file", rule="file.size")
    try:
        document = yaml.load(content.decode("utf-8"), Loader=_NoDuplicates)  # noqa: S506 - a subclass of SafeLoader
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8.", field="file", rule="file.encoding") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a value that looks like a date or a number and is none, such as 2026-13-45.
        raise Invalid(f"{path} is not usable YAML: {_yaml_problem(error)}", field="file", rule="file.yaml") from error
    try:
        parsed = ConfigurationFile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise Invalid(f"{where}: {first['msg']}.", field=where, rule=f"configuration.{first['type']}") from error
    for kind, blocks in (("application", parsed.applications), ("provider", parsed.providers)):
        slugs = [block.slug for block in blocks]
        repeated = next((slug for slug in slugs if slugs.count(slug) > 1), None)
        if repeated is not None:
            raise Invalid(f"The {kind} {repeated!r} stands twice.", field="slug", rule="configuration.repeated")
    return parsed


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    nested = "it nests too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
    problem = getattr(error, "problem", None) or nested
    return f"{problem} (line {mark.line + 1})" if mark is not None else str(problem)
