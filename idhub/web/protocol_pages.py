"""Pages around a sign-in: `/logout`, `/consent`, `/error`. Shown between a protocol and its person; plain forms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.responses import Response

from idhub.access.tables import Application
from idhub.changes import Actor, Event, EventType, record
from idhub.credentials import opaque, transactions
from idhub.credentials.participants import LOGOUT_URI, with_registrations
from idhub.credentials.sessions import authenticate, end_session, participants_of
from idhub.credentials.tables import SamlLogout, SessionParticipant, SsoSession
from idhub.credentials.transactions import Transaction
from idhub.delivery.tables import Delivery
from idhub.oidc.authorize import permitted_scope
from idhub.oidc.clients import find_client
from idhub.pages import BROWSER_COOKIE, N_, Language, new_browser_token
from idhub.pages.notices import Carried
from idhub.saml import front_channel
from idhub.saml.metadata import CHAIN_PATH
from idhub.web.browser import ENDED_COOKIE, cookie, form_targets, see_other, set_cookie, take_session
from idhub.web.forms import Form, form_of
from idhub.web.services import WebServices
from idhub.web.visit import SESSION_COOKIE, SignInRequired, address_of, request_id

_MAX_TRANSACTION = transactions.MAX_ID
_LOGOUT_FORM = form_of("csrf_token", limits={"csrf_token": 200}, optional={"transaction": _MAX_TRANSACTION})
_CONSENT_FORM = form_of(
    "csrf_token", "transaction", "consent", limits={"csrf_token": 200, "transaction": _MAX_TRANSACTION, "consent": 16}
)

SCOPE_WORDS: Mapping[str, tuple[str, str]] = {
    "openid": (N_("Know that it is you"), "user-circle"),
    "profile": (N_("See your name and employee number"), "user"),
    "email": (N_("See your mail address"), "mail"),
    "phone": (N_("See your mobile number"), "device-mobile"),
    "organization": (N_("See your company, department and post"), "building"),
    "offline_access": (N_("Stay connected while you are away, until you sign out or leave"), "refresh"),
}
_OTHER_SCOPE = N_("Use its own permission %(scope)s")

_Notice = tuple[str, str, str]
_NOTICES: Mapping[str, _Notice] = {
    "not_entitled": (
        N_("You cannot open %(application)s"),
        N_("You are signed in, but you have no right to this application yet."),
        N_("Ask your manager or %(owner)s, who answers for this application, for access."),
    ),
    "transaction_gone": (
        N_("This sign-in is over"),
        N_("It was completed, took too long, or was begun in another browser. Nothing was changed."),
        N_("Go back to the application that you came from and start again."),
    ),
    "unknown_client": (
        N_("The hub does not know this application"),
        N_("The link that brought you here names an application that is not connected, or no longer is."),
        N_("Nothing was sent to it. Tell the people who run the application, with the log number below."),
    ),
    "unknown_service_provider": (
        N_("The hub does not know this application"),
        N_("The link that brought you here names an application that is not connected, or no longer is."),
        N_("Nothing was sent to it. Tell the people who run the application, with the log number below."),
    ),
    "unknown_service": (
        N_("The hub does not know this application"),
        N_("The link that brought you here names an address that belongs to no connected application."),
        N_("Nothing was sent to it. Tell the people who run the application, with the log number below."),
    ),
    "no_user": (
        N_("%(application)s cannot be told who you are"),
        N_("You may use it, but it wants to call you by something that the hub does not know of you."),
        N_("Ask your HR desk to complete your record, or tell %(owner)s, who answers for this application."),
    ),
    "ambiguous_user": (
        N_("%(application)s would take you for somebody else"),
        N_("It knows people by employee number or mail address, and a colleague has the same as you."),
        N_("Tell %(owner)s, who answers for this application: it has to know people by something else."),
    ),
    "invalid_consumer": (
        N_("This link leads somewhere that was not agreed"),
        N_("The application asked to send you to an address that is not registered for it."),
        N_("Nothing was sent there. Tell the people who run the application, with the log number below."),
    ),
    "invalid_signature": (
        N_("It is not certain that the application sent this"),
        N_("The message has no signature that the hub knows, or was changed on its way. Nothing was sent to anybody."),
        N_("Tell the people who run the application, with the log number below."),
    ),
    "request_expired": (
        N_("This link is too old"),
        N_("The application made it a while ago, or its clock is wrong. Nothing was changed."),
        N_("Go back to the application that you came from and start again."),
    ),
    "request_replayed": (
        N_("This link was used before"),
        N_("Each link of an application works once. Nothing was changed."),
        N_("Go back to the application that you came from and start again."),
    ),
    "unknown_provider": (
        N_("This company sign-in is not available"),
        N_("The hub does not know it, or it is switched off for now. Nothing was sent to anybody."),
        N_("Sign in with your password, or tell the service desk the log number below."),
    ),
    "upstream_refused": (
        N_("Your company's sign-in did not let you through"),
        N_("It answered that it signed nobody in. Perhaps you cancelled, or it does not let you open this hub."),
        N_("Go back and try again. If it happens again, tell your company's service desk the log number below."),
    ),
    "upstream_answer": (
        N_("The answer of your company's sign-in could not be used"),
        N_("It could not be verified, was changed on its way, was for somewhere else, or came too late."),
        N_("You are not signed in. Try again; if it happens again, tell the service desk the log number below."),
    ),
    "upstream_person": (
        N_("Your company knows you, but this hub does not let you in"),
        N_("Your account there is linked to nobody here who may sign in now."),
        N_("Sign in with your password, or ask HR or the service desk and name the log number below."),
    ),
    "unsupported_authentication": (
        N_("The application asks for another kind of sign-in"),
        N_("It wants a proof of you that the hub does not offer. Nothing was sent to it."),
        N_("Tell the people who run the application, with the log number below."),
    ),
    "nameless": (
        N_("The application cannot be told who you are"),
        N_("It knows people by something that your record lacks, or has like a colleague's. Nothing was sent to it."),
        N_("Tell your personnel department, with the log number below."),
    ),
    "invalid_redirect_uri": (
        N_("This link leads somewhere that was not agreed"),
        N_("The application asked to send you to an address that is not registered for it."),
        N_("Nothing was sent there. Tell the people who run the application, with the log number below."),
    ),
    "request_malformed": (
        N_("This link is damaged"),
        N_("The request of the application could not be read. Nothing was changed and nothing was sent to it."),
        N_("Go back and try again. If it happens again, tell the service desk the log number below."),
    ),
    "invalid_logout_request": (
        N_("The application's request to sign you out could not be used"),
        N_("You are as signed in as before. The application sent something that does not belong to it."),
        N_("To sign out, choose it in your menu here."),
    ),
    "": (
        N_("The sign-in could not go on"),
        N_("The application's request could not be used. You did nothing wrong."),
        N_("Go back and try again. If it happens again, tell the service desk the log number below."),
    ),
}
_CLEANING_SECONDS = 8
"""How long applications are waited for that are asked to clean up, where nothing says that they are done."""
_NOT_LET_IN = frozenset({"not_entitled", "no_user", "ambiguous_user"})
_OWNERLESS = N_("the service desk")


@dataclass(frozen=True, slots=True)
class ApplicationName:
    """An application as a sign-in page names it."""

    name: str
    owner: str
    label: str
    hue: int


class Named(NamedTuple):
    """An application's names in every language."""

    id: str
    name: str
    name_zh: str | None
    owner: str


def named_in(transaction: Transaction | None) -> Named | None:
    """The application that asked."""
    if transaction is None or transaction.application_name is None:
        return None
    return Named(
        transaction.application_id or "", transaction.application_name, transaction.application_name_zh,
        transaction.application_owner or "",
    )  # fmt: skip


def shown_as(named: Named | None, language: Language) -> ApplicationName | None:
    """An application in the language of the page."""
    return None if named is None else _named(named.id, named.name, named.name_zh, language, owner=named.owner)


def application_of(transaction: Transaction | None, language: Language) -> ApplicationName | None:
    """The application that asked, in the language of the page."""
    return shown_as(named_in(transaction), language)


def _named(key: str, name: str, name_zh: str | None, language: Language, *, owner: str = "") -> ApplicationName:
    shown = (name_zh or name) if language == "zh-CN" else name
    label = shown[:1] if not shown.isascii() else shown[:3].upper() if " " not in shown[:3] else shown[:1].upper()
    return ApplicationName(shown, owner, label, sum(key.encode()) % 8)


def sentence_page(
    services: WebServices,
    request: Request,
    title: str,
    sentence: str,
    *,
    next_step: str = "",
    link: tuple[str, str] | None = None,
    status: int = 200,
) -> Response:
    """A page of one heading and a sentence or two, in the language of the request."""
    pages = services.pages
    context = {
        "title": pages.gettext(request, title),
        "sentence": pages.gettext(request, sentence),
        "next_step": pages.gettext(request, next_step) if next_step else "",
        "link": link,
    }
    return pages.render(request, "error.html", context, status)


def notice(
    services: WebServices,
    request: Request,
    *,
    status: int,
    reason: str,
    transaction: Transaction | None = None,
) -> Response:
    """Why a sign-in cannot go on, by its stored reason. Nothing of the request's own text is ever shown.

    For protocols too: `idhub.app` hands it to them as their page for errors that must not be redirected.
    """
    pages = services.pages
    title, sentence, next_step = _NOTICES.get(reason, _NOTICES[""])
    application = application_of(transaction, pages.language(request))
    if "%(application)s" in title and application is None:
        title, sentence, next_step = _NOTICES[""]
    values = {
        "application": application.name if application else "",
        "owner": (application.owner if application else "") or pages.gettext(request, _OWNERLESS),
    }
    context = {
        "title": _filled(pages.gettext(request, title), values),
        "sentence": pages.gettext(request, sentence),
        "next_step": _filled(pages.gettext(request, next_step), values),
        "switch": f"/login?transaction={transaction.id}" if transaction is not None else "",
        "reason": reason if reason in _NOTICES else "request",
        # Where a change of language comes back to: never the request's own query, which may say anything.
        "here": f"/error?transaction={transaction.id}" if transaction is not None else "/error",
    }
    return pages.render(request, "login/notice.html", context, status, headers={"Cache-Control": "no-store"})


def carrying(services: WebServices, request: Request, carried: Carried) -> Response:
    """A page that sends the browser on to an application: by a form that a script submits, or by its address alone.

    The form has a button for browsers that run no script; the address works without one (`Refresh`).
    """
    context = {
        "action": carried.action,
        "fields": carried.fields,
        "purpose": carried.purpose,
        "host": urlsplit(carried.action).hostname or "",
        # Where a change of language comes back to: not here, because a message is sent once.
        "here": "/",
    }
    headers = {"Cache-Control": "no-store"}
    if not carried.fields:
        headers["Refresh"] = f"0;url={carried.action}"
    targets = (carried.action, *carried.targets) if carried.fields else ()
    return services.pages.render(request, "login/carry.html", context, form_action=targets, headers=headers)


def cleaning(services: WebServices, request: Request, addresses: Sequence[str], go_on: str) -> Response:
    """A page whose hidden frames call the clean-up addresses of applications; then the browser goes on.

    No answer of them can be read, so nothing is said of it but that they were asked. The page goes on by a script when
    all frames are done, and by itself (`Refresh`) where no script runs or one of them hangs.
    """
    context = {
        "addresses": addresses,
        "hosts": sorted({urlsplit(address).hostname or "" for address in addresses}),
        "go_on": go_on,
        "here": "/",
    }
    headers = {"Cache-Control": "no-store", "Refresh": f"{_CLEANING_SECONDS};url={go_on}"}
    return services.pages.render(request, "login/cleanup.html", context, frame_src=addresses, headers=headers)


def _filled(sentence: str, values: Mapping[str, str]) -> str:
    return sentence % values if "%(" in sentence else sentence


def add_routes(router: APIRouter, services: WebServices) -> None:
    """Add `/logout`, `/consent` and `/error`."""
    _add_logout(router, services)
    _add_consent(router, services)
    pages = services.pages

    @router.get("/error")
    def show_error(request: Request, transaction: str = "") -> Response:
        """What a sign-in ran into."""
        browser_token = cookie(request, pages, BROWSER_COOKIE)
        with services.database.read() as session:
            found = transactions.load(session, transaction, browser_token, now=services.clock())
        if found is None:
            return notice(services, request, status=400, reason="transaction_gone")
        reason = found.refusal or ""
        status = 403 if reason in _NOT_LET_IN else 400
        return notice(services, request, status=status, reason=reason, transaction=found)


# ---------------------------------------------------------------- logout


def _add_logout(router: APIRouter, services: WebServices) -> None:
    pages, is_secure = services.pages, services.settings.is_https

    @router.get("/logout")
    def show_logout(request: Request, transaction: str = "") -> Response:
        """What signing out will end; or, when nobody is signed in any more, how the applications took it."""
        now = services.clock()
        with services.database.read() as session:
            signed_in = authenticate(session, cookie(request, pages, SESSION_COOKIE), now=now)
            asked = _load(session, services, request, transaction)
            ended = None if signed_in else cookie(request, pages, ENDED_COOKIE)
            results = _results(session, ended, pages.language(request))
            participants = participants_of(session, signed_in.session_id) if signed_in else []
        if signed_in is None:
            if asked is not None:
                return see_other(transactions.resume_url(asked))
            return pages.render(request, "login/signed_out.html", {"results": results})
        language = pages.language(request)
        context = {
            "transaction": asked.id if asked else "",
            "application": application_of(asked, language),
            "name": signed_in.display_name,
            # One line each, however many sessions it keeps (CAS: one for each ticket).
            "applications": list(
                dict.fromkeys(
                    (
                        _named(p.application_id, p.application_name, p.application_name_zh, language),
                        p.is_told or p.is_visited,
                    )
                    for p in participants
                )
            ),
        }
        return pages.render(
            request, "login/logout.html", context, session_id=signed_in.session_id, form_action=form_targets(asked)
        )

    @router.post("/logout")
    def log_out(request: Request, form: Annotated[Form, Depends(_LOGOUT_FORM)]) -> Response:
        """End the session with everything that rests on it, and tell its applications."""
        now, token = services.clock(), cookie(request, pages, SESSION_COOKIE)
        browser_token = cookie(request, pages, BROWSER_COOKIE) or new_browser_token()
        visits = 0
        with services.database.transaction() as session:
            signed_in = authenticate(session, token, now=now)
            if signed_in is not None:
                # ASVS 10.6.2: nobody is signed out by a link or another site's form.
                pages.check_form(request, form["csrf_token"], session_id=signed_in.session_id)
                address = address_of(request, services)
                actor = Actor(kind="person", id=signed_in.principal_id, session_id=signed_in.session_id, ip=address)
                ended = end_session(session, signed_in.session_id, reason="logout", now=now, actor=actor)
                visits = front_channel.plan_visits(session, ended, session_id=signed_in.session_id, now=now)
            asked = _load(session, services, request, form["transaction"])
            target = transactions.resume_url(asked) if asked is not None else "/logout"
            if visits and signed_in is not None:
                # The browser itself tells the applications that nobody else can, then goes where it would have gone.
                chain = {"session_ids": [signed_in.session_id], "return_to": target}
                transaction_id = front_channel.begin_chain(
                    session, chain, browser_token, now=now, settings=services.settings
                )
                target = f"{CHAIN_PATH}?transaction={transaction_id}"
        response = see_other(target)
        if visits:
            set_cookie(
                response, pages, BROWSER_COOKIE, browser_token, is_secure=is_secure, lifetime=timedelta(hours=24)
            )
        take_session(response, pages, token if signed_in is not None else None, is_secure=is_secure)
        return response


def _results(session: Session, token: str | None, language: Language) -> list[tuple[ApplicationName, str]]:
    """Applications of the session that this browser just ended, each with how it took it.

    told, waiting, failed, untold; unconfirmed: the browser itself had to tell it, and nothing came back.
    """
    if not token or not opaque.looks_valid("ses", token):
        return []
    statement = with_registrations(
        select(
            SessionParticipant.application_id,
            Application.name,
            Application.name_zh,
            LOGOUT_URI.label("logout_uri"),
            SamlLogout.state.label("visit"),
            Delivery.state,
        )
        .join(SsoSession, SsoSession.id == SessionParticipant.session_id)
        .join(Application, Application.id == SessionParticipant.application_id)
        .outerjoin(SamlLogout, SamlLogout.participant_id == SessionParticipant.id)
        .outerjoin(Delivery, Delivery.participant_id == SessionParticipant.id)
        .where(SsoSession.token_hash == opaque.hash_of(token), SsoSession.ended_at.is_not(None))
        .order_by(Application.name)
    )
    rows = session.execute(statement).all()
    found = []
    for row in rows:
        if row.visit is not None:
            state = {"done": "told", "failed": "failed"}.get(row.visit, "unconfirmed")
        elif row.logout_uri is None:
            state = "untold"
        else:
            state = {"done": "told", "dead": "failed"}.get(row.state, "waiting")
        found.append((_named(row.application_id, row.name, row.name_zh, language), state))
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------- consent


def _add_consent(router: APIRouter, services: WebServices) -> None:
    pages = services.pages

    @router.get("/consent")
    def show_consent(request: Request, transaction: str = "") -> Response:
        """What an application asks to see and do, in plain words."""
        with services.database.read() as session:
            signed_in = authenticate(session, cookie(request, pages, SESSION_COOKIE), now=services.clock())
            asked = _load(session, services, request, transaction)
            scope = _scope_of(session, asked)
        application = application_of(asked, pages.language(request))
        if asked is None or application is None:
            return notice(services, request, status=400, reason="transaction_gone")
        if signed_in is None:
            return see_other(f"/login?transaction={asked.id}")
        context = {
            "transaction": asked.id,
            "application": application,
            "name": signed_in.display_name,
            "scopes": _scope_words(services, request, scope),
        }
        return pages.render(
            request, "login/consent.html", context, session_id=signed_in.session_id, form_action=form_targets(asked)
        )

    @router.post("/consent")
    def answer_consent(request: Request, form: Annotated[Form, Depends(_CONSENT_FORM)]) -> Response:
        """Note the answer and go back to the protocol, which acts on it."""
        now = services.clock()
        browser_token = cookie(request, pages, BROWSER_COOKIE) or ""
        with services.database.transaction() as session:
            signed_in = authenticate(session, cookie(request, pages, SESSION_COOKIE), now=now)
            if signed_in is None:
                raise SignInRequired
            pages.check_form(request, form["csrf_token"], session_id=signed_in.session_id)
            asked = _load(session, services, request, form["transaction"])
            # Anything but a clear yes is a no.
            is_allowed = form["consent"] == "allow"
            if asked is not None:
                transactions.answer_consent(
                    session,
                    asked.id,
                    browser_token,
                    answer="allow" if is_allowed else "deny",
                    session_id=signed_in.session_id,
                    now=now,
                )
                event = Event(
                    type=EventType.CONSENT_GIVEN if is_allowed else EventType.CONSENT_DENIED,
                    at=now,
                    actor=Actor(kind="person", id=signed_in.principal_id, session_id=signed_in.session_id),
                    door="login",
                    target_kind="client",
                    target_id=asked.client_id or "",
                    person_id=signed_in.principal_id,
                    application_id=asked.application_id,
                    request_id=request_id(request),
                    details={"scope": _scope_of(session, asked)},
                )
                record(session, [event])
        if asked is None:
            return notice(services, request, status=400, reason="transaction_gone")
        return see_other(transactions.resume_url(asked))


def _scope_of(session: Session, asked: Transaction | None) -> str:
    """What an answer of yes would give: of the scope that was asked for, what this client may have."""
    client = find_client(session, asked.client_id) if asked is not None and asked.client_id else None
    if client is None or asked is None:
        return ""
    return permitted_scope(client, str(asked.request.get("scope") or "").split())


def _scope_words(services: WebServices, request: Request, scope: str) -> list[tuple[str, str]]:
    words: dict[str, str] = {}
    for value in scope.split():
        known = SCOPE_WORDS.get(value)
        if known is not None:
            words.setdefault(services.pages.gettext(request, known[0]), known[1])
        else:
            words[services.pages.gettext(request, _OTHER_SCOPE, scope=value)] = "key"
    return list(words.items())


def _load(session: Session, services: WebServices, request: Request, transaction_id: str) -> Transaction | None:
    browser_token = cookie(request, services.pages, BROWSER_COOKIE)
    return transactions.load(session, transaction_id, browser_token, now=services.clock())
