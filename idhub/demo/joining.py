"""Steps 1 to 4: the hub starts, people come in, applications are connected, a person gets in."""

import csv
import time
from pathlib import Path
from typing import Any

import yaml

from idhub.demo import sample
from idhub.demo.applications import Application
from idhub.demo.narrator import StoryFailed
from idhub.demo.processes import wait_until
from idhub.demo.signing_in import link_works, set_first_password
from idhub.demo.stage import Remembered, Stage
from idhub.services import open_hub
from idhub.settings import load_settings

_WIKI_RULE = "employments.company pr"
_OWNER_ONLY = 0o600


def the_hub_starts(stage: Stage) -> None:
    """Step 1: an empty folder becomes an installation."""
    stage.tell.step(
        "身份中心启动",
        "The hub starts",
        "One process on SQLite, from an empty folder: it makes its tables and its keys, and answers.",
    )
    start = time.monotonic()
    stage.hub.start()
    _add_organizations(stage)
    stage.tell.check(f"{stage.hub.address}/readyz answers after {time.monotonic() - start:.1f} s", True)
    metadata = stage.hub.discovery()
    stage.tell.check("discovery names this address as issuer", metadata["issuer"] == stage.hub.address, seen=metadata)
    mode = (stage.hub.folder / "data" / "master.key").stat().st_mode & 0o777
    stage.tell.check("the master key is readable by its owner alone", mode == _OWNER_ONLY, seen=oct(mode))


def _add_organizations(stage: Stage) -> None:
    hub = open_hub(load_settings(data_dir=stage.hub.folder / "data", issuer=stage.hub.address))
    try:
        with hub.database.transaction() as session:
            added = sample.create_sample_organizations(session, now=hub.clock())
    finally:
        hub.close()
    stage.tell.check(
        f"{sample.GROUP_NAME} · {sample.GROUP_NAME_EN} has {added} companies", added == len(sample.COMPANIES)
    )


def an_hr_file_goes_in(stage: Stage) -> None:
    """Step 2: 2,000 people, a dozen faulty rows."""
    written = sample.write_hr_file(stage.folder / "people.csv", today=stage.today)
    stage.tell.step(
        "导入人员文件",
        "An HR file goes in",
        f"{written.rows:,} rows, {written.people:,} people, two languages; faulty rows are named, the rest goes in",
    )
    with stage.tell.working("idhub people import people.csv"):
        result = stage.hub.run("people", "import", written.path, "--json", expect=(2,))
    stage.tell.check(f"after {result.seconds:.1f} s it is in; exit status 2 says: not every row", True)
    refused = {(row["line"], row["field"], row["rule"]) for row in result.data["refused"]}
    stage.tell.check(
        f"exactly the {len(written.faults)} faulty rows are refused, each by line, field and rule",
        refused == {(fault.line, fault.field, fault.rule) for fault in written.faults},
        seen=sorted(refused),
    )
    for line, field, rule in sorted(refused)[:4]:
        stage.tell.fact(f"  line {line}: {field}: {rule}")
    stage.tell.fact(f"  … and {len(refused) - 4} more")


def applications_are_connected(stage: Stage) -> None:
    """Step 3: Office and Wiki by `idhub apply`; Office's people arrive over SCIM."""
    stage.tell.step(
        "接入应用",
        "Applications are connected",
        "Two relying parties and an independent SCIM server, each a process; a rule entitles, SCIM provisions.",
    )
    stage.scim.start()
    configuration = _write_configuration(stage)
    first = stage.hub.run("apply", configuration, "--json")
    stage.tell.check(f"idhub apply apps.yaml connects Office and Wiki ({first.seconds:.1f} s)", first.data["changes"])
    second = stage.hub.run("apply", configuration, "--json")
    stage.tell.check("applied again it changes nothing", not second.data["changes"], seen=second.stdout)
    for application in (stage.office, stage.wiki):
        application.start(stage.hub.address)
    expected = len(_entitled_to_office(stage))
    with stage.tell.working(f"{expected} people are provisioned over SCIM"):
        seconds = wait_until(lambda: stage.scim.count() >= expected, seconds=240, what=f"{expected} SCIM users")
    stage.tell.check(
        f"scim2-server counts {expected} users after {seconds:.0f} s, as many as the HR file entitles",
        stage.scim.count() == expected,
        seen=stage.scim.count(),
    )


def _entitled_to_office(stage: Stage) -> set[str]:
    """Whom Office's rule covers, worked out from the HR file alone: a second opinion on the hub's."""
    today = stage.today.isoformat()
    with (stage.folder / "people.csv").open(encoding="utf-8-sig", newline="") as file:
        return {
            row["national_id"]
            for row in csv.DictReader(file)
            if row["national_id"]  # the faulty rows have none
            and row["company"] == sample.HEADQUARTERS
            and row["employment_type"] != "contractor"
            and row["status"] == "active"
            and row["start_date"] <= today
            and (not row["end_date"] or row["end_date"] >= today)
        }


def _write_configuration(stage: Stage) -> Path:
    owner = stage.cast("administrator").employee_number
    office = {
        "slug": "office",
        "name": {"en": "Office", "zh": "办公"},
        "owner": owner,
        "home_url": f"{stage.office.address}/",
        "criticality": "high",
        "oidc": _oidc(stage.office),
        "scim": {"base_url": stage.scim.base_url, "token_file": stage.scim.token_file.name},
        "entitle": [{"role": "member", "rule": sample.SAMPLE_RULE}],
    }
    wiki = {
        "slug": "wiki",
        "name": {"en": "Wiki", "zh": "知识库"},
        "owner": owner,
        "home_url": f"{stage.wiki.address}/",
        "criticality": "normal",
        "oidc": _oidc(stage.wiki),
        "entitle": [{"role": "reader", "rule": _WIKI_RULE}],
    }
    path = stage.folder / "apps.yaml"
    path.write_text(yaml.safe_dump({"applications": [office, wiki]}, allow_unicode=True, sort_keys=False), "utf-8")
    return path


def _oidc(application: Application) -> dict[str, Any]:
    return {
        "client_id": application.slug,
        "client_secret_file": application.client_secret_file.name,
        "redirect_uris": [f"{application.address}/callback"],
        "post_logout_redirect_uris": [f"{application.address}/signed-out"],
        "backchannel_logout_uri": f"{application.address}/backchannel-logout",
    }


def one_sign_in_opens_both(stage: Stage) -> None:
    """Step 4: one password, two applications; and a person who is not entitled."""
    person = stage.cast("leaver")
    name = person.name
    stage.tell.step(
        "一次登录",
        "One sign-in opens both",
        f"{name} signs in through the real pages, without JavaScript. Somebody who may not enter Office is told so.",
    )
    link = stage.invite(person)
    set_first_password(stage.browser(), link, stage.password)
    stage.tell.check("a one-time link lets her choose a password, once", not link_works(stage.browser(), link))
    browser = stage.browser()
    signed_in = stage.sign_in(browser, stage.office, person)
    page = signed_in.page
    stage.tell.check(
        f"she is in Office as {name}",
        signed_in.asked_for_password and name in page.text,
        seen=(page.url, page.text[:300]),
    )
    signed_in = stage.sign_in(browser, stage.wiki, person)
    page = signed_in.page
    stage.tell.check(
        "she is in Wiki without a second password",
        not signed_in.asked_for_password and name in page.text,
        seen=page.visited,
    )
    session = stage.office.session_of(name)
    if session is None:
        raise StoryFailed("Office says that she has no session")
    tokens = session["token"]
    stage.tell.check("introspection calls her access token active", stage.client.is_active(tokens["access_token"]))
    refreshed = stage.client.refresh(tokens["refresh_token"])
    stage.tell.check("her refresh token gives new tokens", refreshed.is_success, seen=refreshed.text)
    stage.remembered = Remembered(browser, link, session["sub"], {**tokens, **refreshed.json()})

    stranger = stage.cast("not_entitled")
    stage.first_password(stranger)
    page = stage.sign_in(stage.browser(), stage.office, stranger).page
    stage.tell.check(
        f"{stranger.name} (a contractor) may not enter Office: a page of the hub says so in words",
        page.url.startswith(stage.hub.address) and page.login_form is None and "办公" in page.text,
        seen=(page.url, page.status, page.text[:300]),
    )
    stage.tell.check("and Office has no session for that person", stage.office.session_of(stranger.name) is None)
