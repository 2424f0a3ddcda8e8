"""What must hold of a hub at rest, whatever happened to it: looked up in its tables and at its downstreams.

Every effect has its event and the reverse; each delivery has its effect once; no receipt says more than the
downstreams know; the log proves itself against its witness.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit.checkpoint import FileWitness, load_keys
from audit.live import verify_database
from audit.tables import audit_events
from audit.verify import describe
from idhub.access.tables import Entitlement
from idhub.credentials.tables import AuthorizationCode, RefreshToken, SessionParticipant, SsoSession
from idhub.delivery.tables import Delivery, DeliveryAttempt
from idhub.directory.tables import Person, Principal
from idhub.keys import Keyring, MasterKey, load_keyring
from idhub.lifecycle.receipt_document import verify, wrap
from idhub.lifecycle.tables import Case, Receipt, SourceRun
from tests.flows.fault_scene import Scene
from tests.provisioning.stand_ins import StandIn


def check(scene: Scene) -> None:
    """All of it.

    Raises:
        AssertionError: says what does not hold.
    """
    data = scene.folder / "data"
    with scene.look() as database:
        master = MasterKey.load(data / "master.key", create=False)
        keyring = load_keyring(database, master, now=datetime.now().astimezone())
        with database.read() as session:
            verdict = verify_database(
                session.connection(), load_keys(keyring.jwks("checkpoint")), FileWitness(data / "witness.log")
            )
            assert verdict.is_valid, describe(verdict)
            _effects_have_events(session)
            _deliveries_have_events(session)
            _deliveries_took_effect_once(session, scene)
            _receipts_are_true(session, scene, keyring)
        if database.dialect == "sqlite":
            with database.engine.connect() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def _events(session: Session) -> Counter[str]:
    statement = select(audit_events.c.type, func.count()).where(audit_events.c.outcome == "success")
    return Counter({row[0]: row[1] for row in session.execute(statement.group_by(audit_events.c.type))})


def _count(session: Session, *criteria: Any, of: Any) -> int:
    return int(session.execute(select(func.count()).select_from(of).where(*criteria)).scalar_one())


def _effects_have_events(session: Session) -> None:
    events = _events(session)
    left = _count(session, Principal.standing == "left", of=Principal)
    effects = {
        "person.onboarded": _count(session, of=Person),
        "entitlement.entitled": _count(session, Entitlement.superseded_at.is_(None), of=Entitlement),
        "login.succeeded": _count(session, of=SsoSession),
        "code.issued": _count(session, of=AuthorizationCode),
        "token.refreshed": _count(session, RefreshToken.spent_at.is_not(None), of=RefreshToken),
        "import.finished": _count(session, SourceRun.finished_at.is_not(None), of=SourceRun),
        "receipt.issued": _count(session, of=Receipt),
        "case.completed": _count(session, Case.state == "complete", of=Case),
        "delivery.planned": _count(session, of=Delivery),
        "delivery.done": _count(session, Delivery.state == "done", of=Delivery),
        "delivery.superseded": _count(session, Delivery.state == "superseded", of=Delivery),
    }
    found = {kind: events[kind] for kind in effects}
    assert found == effects, f"events {found}, effects {effects}"
    assert events["person.offboarded"] == _count(session, of=Case), "every leave has its case"
    assert events["person.offboarded"] - events["person.rehired"] == left, "every leave and every return has its event"
    # Access tokens of this application are self-contained; a refresh token comes with each.
    assert events["token.issued"] + events["token.refreshed"] == _count(session, of=RefreshToken)
    _told_with_another(session)


def _told_with_another(session: Session) -> None:
    """Effects that have no event of their own: that of what happened with them says so, and names whose it is."""
    signed_in = {one["target"]["id"]: one["person_id"] for one in _bodies(session, "login.succeeded")}
    assert signed_in == {
        row.id: row.principal_id for row in session.execute(select(SsoSession.id, SsoSession.principal_id))
    }
    joined = [
        (one["actor"]["session_id"], one["target"]["id"])
        for one in _bodies(session, "code.issued")
        if one["details"]["joined"]
    ]
    entered = session.execute(select(SessionParticipant.session_id, SessionParticipant.client_id))
    assert sorted(joined) == sorted((row.session_id, row.client_id) for row in entered)
    redeemed = [
        one["details"]["grant_id"]
        for one in _bodies(session, "token.issued")
        if one["details"].get("grant_type") == "authorization_code"
    ]
    spent = select(AuthorizationCode.grant_id).where(AuthorizationCode.spent_at.is_not(None))
    assert sorted(redeemed) == sorted(session.execute(spent).scalars())


def _bodies(session: Session, kind: str) -> list[dict[str, Any]]:
    statement = select(audit_events.c.body).where(audit_events.c.type == kind, audit_events.c.outcome == "success")
    return [orjson.loads(bytes(body)) for body in session.execute(statement).scalars()]


def _deliveries_have_events(session: Session) -> None:
    """Each attempt was announced before it was made, and each that ended has the event of its outcome."""
    tries = Counter(session.execute(select(DeliveryAttempt.delivery_id)).scalars())
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for delivery_id, outcome in session.execute(select(DeliveryAttempt.delivery_id, DeliveryAttempt.outcome)):
        outcomes[delivery_id]["delivery.done" if outcome == "done" else "delivery.retried"] += 1
    announced: dict[str, Counter[str]] = defaultdict(Counter)
    kinds = ("delivery.sent", "delivery.done", "delivery.retried")
    statement = select(audit_events.c.delivery_id, audit_events.c.type).where(audit_events.c.type.in_(kinds))
    for delivery_id, kind in session.execute(statement):
        announced[delivery_id][kind] += 1
    sent = Counter({delivery_id: kinds["delivery.sent"] for delivery_id, kinds in announced.items()})
    assert sent == tries
    for delivery_id, ended in outcomes.items():
        said = announced[delivery_id]
        assert {kind: said[kind] for kind in ended} == dict(ended), delivery_id


def _deliveries_took_effect_once(session: Session, scene: Scene) -> None:
    """One account a person, one end a session, and no write under an id that the hub does not know."""
    known = set(session.execute(select(Delivery.id)).scalars())
    by_external_id = Counter(str(user.get("externalId")) for user in scene.scim.users.values())
    assert not [name for name, count in by_external_id.items() if count > 1], "an account was made twice"
    assert {one.delivery for one in scene.scim.writes()} <= known
    ids_of: dict[str, set[str]] = defaultdict(set)
    for jti, sid in scene.receiver.came:
        ids_of[sid].add(jti)
        assert jti in known
    assert all(len(ids) == 1 for ids in ids_of.values()), "a logout was repeated under another id"


def _receipts_are_true(session: Session, scene: Scene, keyring: Keyring) -> None:
    keys = keyring.jwks("receipt")
    states = {row.id: row.state for row in session.execute(select(Case.id, Case.state))}
    newest: dict[str, bool] = {}
    for receipt in session.execute(select(Receipt).order_by(Receipt.case_id, Receipt.version)).scalars():
        verdict = verify(wrap(receipt.jws, receipt.disclosures), keys)
        assert verdict.is_valid, verdict.problems
        rows = verdict.claims["rows"]
        assert receipt.is_complete == all(
            row["state"] == "done" and row["grade"] >= row["required_grade"] for row in rows
        )
        for row in rows:
            if row["state"] == "done" and row["channel"] != "none":
                _was_so(row, scene, receipt.signed_at)
        newest[receipt.case_id] = receipt.is_complete
    assert newest, "there is a receipt"
    assert all(newest.values()), f"receipts completed by themselves: {newest}"
    assert all(states[case_id] == "complete" for case_id in newest)


def _was_so(row: Any, scene: Scene, signed_at: datetime) -> None:
    """What a done row claims had happened at the downstream before the receipt was signed."""
    if row["grade"] == 0 or signed_at.timestamp() < scene.began_at:
        return  # of the prepared installation, whose downstreams were others
    if row["channel"] == "backchannel_logout":
        assert min(scene.receiver.ended_at.values(), default=signed_at.timestamp() + 1) <= signed_at.timestamp()
    elif row["channel"] == "scim":
        account = next(user for user in scene.scim.users.values() if user["userName"] == row["account"])
        assert not account["active"], row
        assert _switched_off_at(scene.scim, str(account["id"])) <= signed_at.timestamp(), row


def _switched_off_at(service: StandIn, user_id: str) -> float:
    return next((one.at for one in service.writes() if one.path.endswith(f"/{user_id}")), 0.0)
