"""From queues of the version before r0029, where what waits for a decision was a dead letter of a certain text."""

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tests.support.migrating import migrate_to

MAYBE = "An account there may be this person's. Confirm or reject it in the list of reviews."
DELIVERIES = {
    "dlv_one": ("provision", "dead", MAYBE),
    "dlv_several": ("provision", "dead", "The application has 2 accounts for this person. Keep one of them."),
    "dlv_refused": ("provision", "dead", "The application refuses a new account. userName is taken"),
    "dlv_quoted": ("provision", "pending", "The application has 2 accounts for this person. Keep one of them."),
    "dlv_silent": ("provision", "dead", None),
    "dlv_group": ("group", "dead", "The application has 2 groups of the name 'x'. Keep one of them."),
}


def test_what_waited_for_a_decision_is_in_review_and_nothing_else_is(database_url: str) -> None:
    migrate_to(database_url, "r0028")
    engine = create_engine(make_url(database_url))
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO organizations (id, kind, code, name, time_zone, created_at)"
                " VALUES ('org_1', 'company', 'HQ', 'HQ', 'UTC', 0)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO applications (id, slug, name, organization_id, criticality, revocation_deadline_seconds,"
                " is_enabled, created_at, changed_at)"
                " VALUES ('app_1', 'office', 'Office', 'org_1', 'high', 300, true, 0, 0)"
            )
        )
        for place, (delivery_id, (operation, state, error)) in enumerate(DELIVERIES.items()):
            connection.execute(
                text(
                    "INSERT INTO deliveries (id, seq, application_id, channel, lane, operation, payload, state,"
                    " required_grade, grade, evidence, attempts, next_attempt_at, lease_token, planned_at, last_error)"
                    " VALUES (:id, 1, 'app_1', 'scim', :lane, :operation, '{}', :state, 1, 0, '{}', 1, 0, 1, 0, :error)"
                ),
                {"id": delivery_id, "lane": f"l{place}", "operation": operation, "state": state, "error": error},
            )
    migrate_to(database_url, "head")
    with engine.connect() as connection:
        states = {row.id: row.state for row in connection.execute(text("SELECT id, state FROM deliveries"))}
    engine.dispose()

    assert states == {name: was for name, (_, was, _) in DELIVERIES.items()} | {
        "dlv_one": "review",
        "dlv_several": "review",
    }
