"""`idhub credentials end`: what was issued to a person or to a client, ended by whoever runs the hub."""

import sqlite3

import pytest

from tests.cli.conftest import Command
from tests.cli.test_commands import one_sentence

APPS = """
applications:
  - slug: office
    name: {en: Office, zh: 办公}
    oidc: {client_id: office-web, public: true, redirect_uris: [http://127.0.0.1:9001/callback]}
"""


def epochs(idhub: Command, number: str) -> tuple[int, int]:
    with sqlite3.connect(idhub.folder / "data" / "idhub.db") as connection:
        row = connection.execute(
            "SELECT access_epoch, enrolment_epoch FROM principals WHERE id ="
            " (SELECT principal_id FROM employments WHERE employee_number = ?)",
            (number,),
        ).fetchone()
    return int(row[0]), int(row[1])


def test_a_persons_credentials_end_and_their_standing_stays(staffed: Command) -> None:
    done = staffed("credentials", "end", "--person", "QY1", "--reason", "laptop stolen", "--json")
    assert done.code == 0, done.err
    person = done.json["person"]
    assert epochs(staffed, "QY1") == (2, 1), "whatever was issued before has another epoch; factors stay"
    assert epochs(staffed, "QY2") == (1, 1)
    assert staffed("people", "show", "QY1", "--json").json["standing"] == "active"
    events = staffed("audit", "search", "--action", "person.credentials_ended", "--json").json["events"]
    assert [(one["target_id"], one["details"]["reason_given"]) for one in events] == [(person, "laptop stolen")]


def test_a_clients_credentials_end(staffed: Command) -> None:
    assert staffed("apply", str(staffed.write("apps.yaml", APPS))).code == 0
    done = staffed("credentials", "end", "--client", "office-web")
    assert (done.code, done.out) == (0, "office-web: 0 grants ended\n"), done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Name --person or --client, one of them."),
        (("--person", "QY1", "--client", "office-web"), "Name --person or --client, one of them."),
        (("--person", "QY9"), "[person]: Nobody is named 'QY9'."),
        (("--client", "office"), "[client]: There is no such client."),
        (("--client", "office", "--reason", "x" * 501), "[reason]"),
    ],
)
def test_what_is_not_there_is_refused_by_name(staffed: Command, arguments: tuple[str, ...], says: str) -> None:
    assert says in one_sentence(staffed("credentials", "end", *arguments))
