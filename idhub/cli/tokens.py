"""`idhub token`: tokens of the administration API and of SCIM senders."""

from datetime import timedelta
from typing import Annotated, Any

import typer
from sqlalchemy import insert, or_, select, update

from idhub.api.scopes import ALL_SCOPES, SCIM_SCOPES, check_scopes
from idhub.changes import Event, EventType, record
from idhub.cli.console import JsonOption, app, caller, open_here, show, table
from idhub.credentials import opaque
from idhub.credentials.tables import ApiToken
from idhub.db import new_id
from idhub.directory.organizations import find_organization
from idhub.directory.tables import Installation
from idhub.errors import Invalid, NotFound
from idhub.provisioning.inbound.extensions import registered
from idhub.provisioning.inbound.store import kinds_with
from idhub.provisioning.inbound.terms import DEFAULT_TERMS, Ending, Return, Terms, check_terms

_MAX_TOKEN_DAYS = 3_650
_SCIM = "Terms of a SCIM sender"

token = typer.Typer(help="Tokens of the administration API and of SCIM senders.", no_args_is_help=True)
app.add_typer(token, name="token")


@token.command("create")
def create_token(
    scope: Annotated[list[str], typer.Option(help="What it may do; say it again for more. " + ", ".join(ALL_SCOPES))],
    name: Annotated[str, typer.Option(help="What it is for.")] = "command line",
    organization: Annotated[str | None, typer.Option(help="Only within this company's subtree.")] = None,
    days: Annotated[int, typer.Option(min=1, max=_MAX_TOKEN_DAYS, help="Lifetime in days.")] = 90,
    inactive: Annotated[
        Ending, typer.Option(help="SCIM: what active: false does: suspend or leave.", rich_help_panel=_SCIM)
    ] = DEFAULT_TERMS.inactive,
    deleted: Annotated[
        Ending, typer.Option(help="SCIM: what DELETE does: leave or suspend.", rich_help_panel=_SCIM)
    ] = DEFAULT_TERMS.deleted,
    unsaid: Annotated[
        Ending, typer.Option(help="SCIM: what a PUT without active does.", rich_help_panel=_SCIM)
    ] = DEFAULT_TERMS.unsaid,
    scope_group: Annotated[
        str | None,
        typer.Option(help="SCIM: group of those whom the sender is responsible for.", rich_help_panel=_SCIM),
    ] = None,
    out_of_scope: Annotated[
        Ending, typer.Option(help="SCIM: what removal from the scope group does.", rich_help_panel=_SCIM)
    ] = DEFAULT_TERMS.out_of_scope,
    returns: Annotated[
        Return, typer.Option(help="SCIM: whom active: true brings back.", rich_help_panel=_SCIM)
    ] = DEFAULT_TERMS.returns,
    readable: Annotated[
        list[str] | None,
        typer.Option(help="SCIM: attribute that it may read; without any, all.", rich_help_panel=_SCIM),
    ] = None,
    writable: Annotated[
        list[str] | None,
        typer.Option(help="SCIM: attribute that it may write; without any, all.", rich_help_panel=_SCIM),
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="SCIM: User or Group; without any, both.", rich_help_panel=_SCIM)
    ] = None,
    calls_a_minute: Annotated[
        int | None, typer.Option(help="SCIM: most calls a minute, over all processes.", rich_help_panel=_SCIM)
    ] = None,
    replace_makes: Annotated[
        bool,
        typer.Option("--replace-makes", help="SCIM: PATCH replace makes what is missing.", rich_help_panel=_SCIM),
    ] = False,
    post_replaces: Annotated[
        bool,
        typer.Option(
            "--post-replaces", help="SCIM: POST of a known externalId replaces the person.", rich_help_panel=_SCIM
        ),
    ] = False,
) -> None:
    """Print a new token, once."""
    scopes = check_scopes(scope)
    wanted = Terms(
        inactive=inactive,
        deleted=deleted,
        unsaid=unsaid,
        scope_group=scope_group,
        out_of_scope=out_of_scope,
        returns=returns,
        readable=_listed(readable),
        writable=_listed(writable),
        resources=_listed(resource),
        calls_a_minute=calls_a_minute,
        replace_makes=replace_makes,
        post_replaces=post_replaces,
    )
    if wanted != DEFAULT_TERMS and not SCIM_SCOPES.keys() & set(scopes):
        raise Invalid("Terms are for tokens with a SCIM scope.", field="scope", rule="terms.scope_missing")
    value = opaque.make("api")
    with open_here() as hub, hub.database.transaction() as session:
        now = hub.clock()
        terms = check_terms(wanted, kinds_with(registered(session))).as_json()
        epoch = session.execute(select(Installation.epoch)).scalar_one()
        token_id = new_id("tok")
        session.execute(
            insert(ApiToken).values(
                id=token_id,
                token_hash=opaque.hash_of(value),
                name=name[:120],
                installation_epoch=epoch,
                scopes=list(scopes),
                organization_id=find_organization(session, organization) if organization else None,
                terms=terms or None,
                created_at=now,
                expires_at=now + timedelta(days=days),
                is_local=True,
            )
        )
        details = {"scopes": list(scopes), "name": name[:120], "days": days} | ({"terms": terms} if terms else {})
        record(session, [_event(EventType.API_TOKEN_CREATED, token_id, details, now)])
    print(value)


def _listed(names: list[str] | None) -> frozenset[str] | None:
    """Names of an option that may be said again, or hold several, joined by commas."""
    if not names:
        return None
    return frozenset(part for name in names for part in name.split(",") if part.strip())


@token.command("list")
def list_tokens(json: JsonOption = False) -> None:
    """Show tokens that may still be used: never their values, which nobody keeps."""
    with open_here() as hub, hub.database.read() as session:
        rows = session.execute(
            select(
                ApiToken.id, ApiToken.name, ApiToken.scopes, ApiToken.organization_id, ApiToken.terms,
                ApiToken.created_at, ApiToken.expires_at,
            )
            .where(
                ApiToken.revoked_at.is_(None), or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > hub.clock())
            )
            .order_by(ApiToken.created_at, ApiToken.id)
        ).all()  # fmt: skip
    data = [dict(row._mapping) for row in rows]
    lines = [
        [row.id, row.name, " ".join(row.scopes), row.expires_at.date().isoformat() if row.expires_at else "never"]
        for row in rows
    ]
    show(data, as_json=json, lines=table(lines, ["id", "name", "scopes", "expires"]))


@token.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="From `idhub token list`.")], json: JsonOption = False
) -> None:
    """End a token at once: its next call is refused."""
    with open_here() as hub, hub.database.transaction() as session:
        now = hub.clock()
        ended = session.execute(
            update(ApiToken)
            .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(ApiToken.name)
        ).scalar_one_or_none()
        if ended is None:
            raise NotFound("There is no such token, or it has been revoked.", field="token", rule="token.unknown")
        record(session, [_event(EventType.API_TOKEN_REVOKED, token_id, {"name": ended}, now)])
    show({"id": token_id, "name": ended, "revoked": True}, as_json=json, lines=[f"{token_id} ({ended}) is revoked"])


def _event(kind: EventType, token_id: str, details: dict[str, Any], now: Any) -> Event:
    return Event(
        type=kind,
        at=now,
        actor=caller().actor,
        door="cli",
        target_kind="api_token",
        target_id=token_id,
        details=details,
    )
