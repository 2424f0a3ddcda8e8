"""What the race tests share: everybody at once on several processes, and what is left afterwards."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from tests.support.cluster import (
    NEW_PASSWORD,
    Cluster,
    Someone,
    authorize,
    hidden_fields,
    introspect,
    redeem,
    refresh,
    session_cookie,
    userinfo,
)
from tests.support.wire import Answer, Wire, form, get

PARALLEL = 50


class Crowd:
    """Connections to every process of a cluster, in turn; each test has its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._runner = asyncio.Runner()
        self._wires: list[Wire] = []

    def at_once(self, requests: Sequence[bytes]) -> list[Answer]:
        """Send every request at the same moment, over all processes in turn; answers in order."""

        async def everybody() -> list[Answer]:
            ports = self.cluster.ports
            while len(self._wires) < len(requests):
                self._wires.append(await Wire(ports[len(self._wires) % len(ports)]).connect())
            return await asyncio.gather(*(w.send(r) for w, r in zip(self._wires, requests, strict=False)))

        return self._runner.run(everybody())

    def after(self, *requests: tuple[float, bytes]) -> list[Answer]:
        """Send each request so many seconds after the start; answers in order."""

        async def later(wire: Wire, seconds: float, request: bytes) -> Answer:
            await asyncio.sleep(seconds)
            return await wire.send(request)

        async def everybody() -> list[Answer]:
            ports = self.cluster.ports
            while len(self._wires) < len(requests):
                self._wires.append(await Wire(ports[len(self._wires) % len(ports)]).connect())
            return await asyncio.gather(*(later(w, s, r) for w, (s, r) in zip(self._wires, requests, strict=False)))

        return self._runner.run(everybody())

    def ask(self, request: bytes) -> Answer:
        """One request, to the first process."""
        return self.at_once([request])[0]

    def everywhere(self, request: bytes) -> list[Answer]:
        """The same request to every process."""
        return self.at_once([request] * len(self.cluster.ports))

    def close(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()
        self._runner.close()

    def reconnect(self) -> None:
        """Forget connections to processes that are gone."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()

    # ------------------------------------------------------------------ steps of a sign-in

    def code(self, slug: str, session_token: str) -> str:
        """A fresh authorization code."""
        answer = self.ask(authorize(slug, session_token))
        assert answer.status == 303, answer.text
        return answer.query["code"]

    def tokens(self, slug: str, session_token: str) -> dict[str, str]:
        """Tokens of an application under a session."""
        answer = self.ask(redeem(slug, self.cluster.applications[slug], self.code(slug, session_token)))
        assert answer.status == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    def login_form(self, path: str = "/login") -> tuple[dict[str, str], dict[str, str]]:
        """Hidden fields and cookies of a page with a form, opened by a new browser."""
        page = self.ask(get(path))
        assert page.status == 200, page.text
        return hidden_fields(page.text), page.cookies()

    def login(self, person: Someone, password: str | None = None) -> bytes:
        """A filled-in sign-in form of a new browser."""
        fields, cookies = self.login_form()
        return form(
            "/login", {**fields, "username": person.number, "password": password or person.password}, cookies=cookies
        )

    def first(self, token: str, password: str = NEW_PASSWORD) -> bytes:
        """A filled-in form behind a one-time link."""
        fields, cookies = self.login_form(f"/login/first?token={token}")
        return form("/login/first", {**fields, "password": password}, cookies=cookies)

    # ------------------------------------------------------------------ what is left

    def session_works(self, token: str) -> bool:
        """Whether some process accepts the session: for a page, or for a silent sign-in to an application."""
        pages = self.everywhere(get("/account/sessions", cookies=session_cookie(token)))
        codes = self.everywhere(authorize("wiki", token, prompt="none"))
        return any(page.status == 200 for page in pages) or any("code" in answer.query for answer in codes)

    def access_works(self, slug: str, token: str) -> bool:
        """Whether some process accepts the access token."""
        secret = self.cluster.applications[slug]
        asked = self.everywhere(introspect(slug, secret, token))
        assert {answer.status for answer in asked} == {200}, [answer.text for answer in asked]
        return any(a.json()["active"] for a in asked) or any(a.status == 200 for a in self.everywhere(userinfo(token)))

    def refresh_works(self, slug: str, token: str) -> bool:
        """Whether some process accepts the refresh token. Trying spends it."""
        secret = self.cluster.applications[slug]
        asked = self.everywhere(introspect(slug, secret, token))
        if any(answer.json()["active"] for answer in asked):
            return True
        return any(answer.status == 200 for answer in self.everywhere(refresh(slug, secret, token)))


def statuses(answers: Sequence[Answer]) -> Counter[int]:
    """How many answers had each status."""
    return Counter(answer.status for answer in answers)


def bodies(answers: Sequence[Answer], status: int, part: Callable[[Answer], str] = lambda a: a.text) -> set[str]:
    """What the answers of one status say."""
    return {part(answer) for answer in answers if answer.status == status}
