"""`idhub credentials`: what was issued to a person or to an application, ended when somebody else may have it."""

from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from idhub.cli.console import JsonOption, app, caller, open_here, show, write
from idhub.credentials.revoke import end_client_credentials
from idhub.directory.people import find_person
from idhub.errors import Invalid
from idhub.lifecycle import commands
from idhub.lifecycle.intake import clean_text

credentials = typer.Typer(help="What was issued: sessions, grants, codes, tokens.", no_args_is_help=True)
app.add_typer(credentials, name="credentials")


@credentials.callback()
def _is_a_group() -> None:
    """Keeps `end` a command of its own while it is the only one."""


@credentials.command("end")
def end(
    person: Annotated[
        str | None, typer.Option(help="Whose: id, employee number, company/number, mail or mobile.")
    ] = None,
    client: Annotated[str | None, typer.Option(help="Or whose: the client_id of an application.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the audit log.")] = None,
    json: JsonOption = False,
) -> None:
    """End everything issued so far to a person, or to a client: its next use is refused. Both may sign in anew."""
    if (person is None) == (client is None):
        raise Invalid("Name --person or --client, one of them.", field="person", rule="credentials.whose")
    with open_here() as hub:
        if client is not None:
            who = caller()
            why = clean_text(reason, field_name="reason", limit=500) if reason else None
            grants = end_client_credentials(
                hub.database, client, reason=why, clock=hub.clock, actor=who.actor, door=who.door
            )
            show({"client": client, "grants": grants}, as_json=json, lines=[f"{client}: {grants} grants ended"])
            return

        def act(session: Session, now: datetime) -> Any:
            principal_id = find_person(session, str(person))
            commands.end_credentials(session, caller(), principal_id, now=now, reason=reason)
            return {"person": principal_id}

        data = write(hub, act)
    show(data, as_json=json, lines=[f"{data['person']}: everything issued so far has ended"])
