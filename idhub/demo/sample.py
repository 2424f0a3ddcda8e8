"""The sample group 启岳汽车集团 (Qiyue Automotive Group): its companies, its people, its HR file with a dozen faults.

Everything is invented and deterministic: the same day, number of people and seed give the same file, byte for byte.
Rows are made as a stream, so that the benchmarks write a million people with the same code.
"""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import update
from sqlalchemy.orm import Session

from idhub.authority import HubRole
from idhub.demo.sample_names import (
    CHINESE_SURNAMES,
    CHINESE_SYLLABLES,
    ENGLISH_GIVEN,
    ENGLISH_SURNAMES,
    GERMAN_GIVEN,
    GERMAN_SURNAMES,
)
from idhub.directory.kinds import OrganizationKind
from idhub.directory.organizations import all_organizations, create_organization, root_organization
from idhub.directory.tables import Organization
from providers.hr_file import COLUMNS, Rule

GROUP_NAME: Final = "启岳汽车集团"
GROUP_NAME_EN: Final = "Qiyue Automotive Group"
HEADQUARTERS: Final = "总部"
MAIL_DOMAIN: Final = "qiyue.example"
DEFAULT_SEED: Final = 20261123
SAMPLE_RULE: Final = 'employments.company eq "总部" and employments.type ne "contractor"'
"""The birthright rule of the demo's Office."""


@dataclass(frozen=True, slots=True)
class SampleCompany:
    """One company of the group; `share` is its part of all people, in thousandths."""

    code: str
    name: str
    name_en: str
    kind: OrganizationKind
    time_zone: str
    share: int
    language: str
    departments: tuple[str, ...]
    titles: tuple[str, ...]


_HEADQUARTERS_ZH: Final = (
    *("总裁办公室", "人力资源部", "人力资源部/招聘组", "财务部", "财务部/会计核算", "财务部/税务", "法务部"),
    *("信息技术部", "信息技术部/平台研发", "信息技术部/平台研发/身份与安全", "信息技术部/应用研发"),
    *("研发中心", "研发中心/整车", "研发中心/整车/底盘", "研发中心/智能驾驶", "研发中心/智能驾驶/感知"),
    *("信息技术部/运维", "采购部", "质量部"),
)
_PLANT_ZH: Final = (
    *("厂务部", "制造部", "制造部/冲压车间", "制造部/焊装车间", "制造部/涂装车间"),
    *("制造部/总装车间", "制造部/总装车间/一线"),
)
_TITLES_ZH: Final = ("工程师", "高级工程师", "专员", "主管", "项目经理", "会计", "采购员", "质量工程师")
_PLANT_TITLES_ZH: Final = ("操作工", "班组长", "设备工程师", "工艺工程师", "质检员", "物流专员")
_CHINA, _GERMANY = "Asia/Shanghai", "Europe/Berlin"

COMPANIES: Final = (
    SampleCompany(
        *("HQ", HEADQUARTERS, "Headquarters", OrganizationKind.COMPANY, _CHINA, 320, "zh"),
        departments=_HEADQUARTERS_ZH,
        titles=_TITLES_ZH,
    ),
    SampleCompany(
        *("QYSH", "启岳上海制造", "Qiyue Shanghai Manufacturing", OrganizationKind.SUBSIDIARY, _CHINA, 270, "zh"),
        departments=_PLANT_ZH,
        titles=_PLANT_TITLES_ZH,
    ),
    SampleCompany(
        *("QYCD", "启岳成都电池", "Qiyue Chengdu Battery", OrganizationKind.SUBSIDIARY, _CHINA, 170, "zh"),
        departments=_PLANT_ZH,
        titles=_PLANT_TITLES_ZH,
    ),
    SampleCompany(
        *("QYDE", "Qiyue Deutschland GmbH", "Qiyue Germany", OrganizationKind.SUBSIDIARY, _GERMANY, 100, "de"),
        departments=(
            *("Geschäftsführung", "Entwicklung", "Entwicklung/Fahrwerk", "Entwicklung/Software"),
            *("Vertrieb", "Finanzen"),
        ),
        titles=("Ingenieur", "Entwicklerin", "Sachbearbeiter", "Teamleiterin"),
    ),
    SampleCompany(
        *("QYUS", "Qiyue North America Inc.", "Qiyue North America", OrganizationKind.SUBSIDIARY),
        *("America/Detroit", 60, "en"),
        departments=("Management", "Sales", "Sales/Fleet", "Service", "Service/Parts", "Finance", "IT"),
        titles=("Engineer", "Analyst", "Account Manager", "Technician"),
    ),
    SampleCompany(
        *("DL001", "沪东汽车销售", "Hudong Motors (dealer)", OrganizationKind.DEALER, _CHINA, 30, "zh"),
        departments=("门店", "门店/销售", "门店/售后"),
        titles=("销售顾问", "服务顾问", "店长助理"),
    ),
    SampleCompany(
        *("DL002", "Autohaus Nordlicht", "Autohaus Nordlicht (dealer)", OrganizationKind.DEALER, _GERMANY, 20, "de"),
        departments=("Verkauf", "Werkstatt"),
        titles=("Verkäufer", "Mechatronikerin"),
    ),
    SampleCompany(
        *("SP001", "宁川轴承", "Ningchuan Bearings (supplier)", OrganizationKind.SUPPLIER, _CHINA, 20, "zh"),
        departments=("驻厂服务", "驻厂服务/质量"),
        titles=("驻厂工程师", "质量代表"),
    ),
    SampleCompany(
        *("SP002", "Rhein Sensorik", "Rhein Sensorik (supplier)", OrganizationKind.SUPPLIER, _GERMANY, 10, "de"),
        departments=("Kundendienst",),
        titles=("Servicetechniker",),
    ),
)


@dataclass(frozen=True, slots=True)
class SampleSignIn:
    """Somebody of the story, with the hub role they are given (None: a plain employee)."""

    part: str
    employee_number: str
    name: str
    family_name: str
    given_name: str
    mail: str
    department: str
    title: str
    employment_type: str = "regular"
    hub_role: HubRole | None = None


_STORY: Final = (
    SampleSignIn(
        *(
            "administrator",
            "QY000123",
            "陈立群",
            "陈",
            "立群",
            "liqun.chen",
            "信息技术部/平台研发/身份与安全",
            "平台负责人",
        ),
        hub_role=HubRole.ADMINISTRATOR,
    ),
    SampleSignIn(
        *("hr", "QY000124", "林晓雯", "林", "晓雯", "xiaowen.lin", "人力资源部", "人力资源专员"), hub_role=HubRole.HR
    ),
    SampleSignIn(
        *("auditor", "QY000125", "周敏之", "周", "敏之", "minzhi.zhou", "法务部", "内审专员"), hub_role=HubRole.AUDITOR
    ),
    SampleSignIn("employee", "QY000126", "张晨曦", "张", "晨曦", "chenxi.zhang", "研发中心/智能驾驶", "工程师"),
    SampleSignIn("leaver", "QY000127", "李思雨", "李", "思雨", "siyu.li", "研发中心/整车/底盘", "高级工程师"),
    SampleSignIn("second_leaver", "QY000128", "赵一鸣", "赵", "一鸣", "yiming.zhao", "采购部", "采购员"),
    SampleSignIn(
        *("not_entitled", "QY000129", "孙悦然", "孙", "悦然", "yueran.sun", "信息技术部/应用研发", "外包工程师"),
        employment_type="contractor",
    ),
)
_STORY_NAMES: Final = frozenset(part.name for part in _STORY)
SAMPLE_SIGNINS: Final[Mapping[str, SampleSignIn]] = {each.part: each for each in _STORY}
_FIRST_STORY_POST: Final = 123
_LATIN: Final = {ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss", ord("'"): ""}


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """A row that must be refused: where, which field, which rule."""

    line: int
    field: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class SampleFile:
    """What was written: `rows` without the header, of which `faults` must be refused and the rest must go in."""

    path: Path
    rows: int
    people: int
    faults: tuple[PlantedFault, ...]


FAULTS: Final[tuple[tuple[str, Rule, Mapping[str, str]], ...]] = (
    ("employee_number", Rule.MISSING_EMPLOYEE_NUMBER, {"employee_number": "", "company": "沪东汽车销售"}),
    ("start_date", Rule.IMPOSSIBLE_DATE, {"start_date": "2026-02-30"}),
    ("end_date", Rule.END_BEFORE_START, {"start_date": "2026-03-01", "end_date": "2026-02-28"}),
    ("status", Rule.UNKNOWN_STATUS, {"status": "on_leave"}),
    ("employment_type", Rule.UNKNOWN_EMPLOYMENT_TYPE, {"employment_type": "freelance"}),
    ("department", Rule.EMPTY_PATH_PART, {"department": "研发中心//底盘"}),
    ("name", Rule.CONTROL_CHARACTER, {"name": "吴\x07刚"}),
    ("name", Rule.BIDI_CHARACTER, {"name": "Anna \u202eztluhcS"}),
    ("title", Rule.FORMULA_PREFIX, {"title": '=HYPERLINK("http://evil.example","工资单")'}),
    ("title", Rule.TOO_LONG, {"title": "高级" * 120 + "工程师"}),
    ("email", Rule.INVALID_EMAIL, {"email": "wu.gang(at)qiyue.example"}),
    ("employee_number", Rule.REPEATED_EMPLOYEE_NUMBER, {}),
)
"""The dozen: each breaks another rule. The last repeats company and number of the row before it."""


def create_sample_organizations(session: Session, *, now: datetime) -> int:
    """Name the root after the group and add its companies below; returns how many were added. Idempotent."""
    root = root_organization(session)
    session.execute(update(Organization).where(Organization.id == root).values(name=GROUP_NAME, name_en=GROUP_NAME_EN))
    known = {organization.code for organization in all_organizations(session).values()}
    missing = [company for company in COMPANIES if company.code not in known]
    for company in missing:
        create_organization(
            session,
            code=company.code,
            name=company.name,
            name_en=company.name_en,
            kind=company.kind,
            parent_id=root,
            time_zone=company.time_zone,
            now=now,
        )
    return len(missing)


def write_hr_file(
    path: Path, *, today: date, people: int = 2000, seed: int = DEFAULT_SEED, faults: int = len(FAULTS)
) -> SampleFile:
    """Write the HR file (CSV, UTF-8 with BOM for spreadsheets) of `people` humans, with faulty rows spread over it.

    About one in 66 people holds two posts, so that there are more rows than people. `faults` above a dozen repeat the
    same kinds of fault (benchmarks).
    """
    planted: list[PlantedFault] = []
    every = max(1, people // (faults + 1))
    rows = 0
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, row in enumerate(sample_rows(today=today, people=people, seed=seed), start=1):
            writer.writerow(row)
            rows += 1
            if index % every == 0 and len(planted) < faults:
                field, rule, faulty = _faulty_row(len(planted), row, today=today)
                writer.writerow(faulty)
                rows += 1
                planted.append(PlantedFault(rows + 1, field, rule))
    return SampleFile(path, rows, people, tuple(planted))


def sample_rows(*, today: date, people: int, seed: int = DEFAULT_SEED) -> Iterator[list[str]]:
    """Yield the faultless rows of `people` humans, company by company, in the order of the columns."""
    chance = random.Random(seed)
    number = _FIRST_STORY_POST - len(COMPANIES[0].departments) - 1
    mails = {part.mail: 1 for part in _STORY}
    for company, count in _headcounts(people):
        departments = _departments(company, count)
        heads: dict[str, str] = {}
        story = _STORY if company.code == "HQ" else ()
        for position in range(count):
            if company.kind is OrganizationKind.SUPPLIER:
                employee_number = f"{position + 1:06}"
            else:
                number += 1
                employee_number = f"QY{number:06}"
            # First one leader for every department, then the people of the story, then everybody else.
            place = position - len(company.departments)
            part = story[place] if 0 <= place < len(story) else None
            department = part.department if part else departments[position % len(departments)]
            human = _human(company, part, chance, mails)
            leads = department not in heads
            facts = _facts(company, part, today, chance, leads=leads)
            if leads:
                heads[department] = employee_number
            head = heads[departments[0] if leads else department]
            manager = head if head != employee_number else ""
            national_id = f"QYID-{company.code}-{position + 1:07}"
            yield [
                employee_number, *human, company.name, department, facts.title, manager, *facts.columns(), "",
                national_id,
            ]  # fmt: skip
            if company.code == "HQ" and position % 20 == 19 and facts.is_plain and part is None:
                yield _second_post(human, heads[departments[0]], national_id, position, today)


def _headcounts(people: int) -> list[tuple[SampleCompany, int]]:
    """Share `people` out over the companies; headquarters takes what rounding leaves."""
    counts = [people * company.share // 1000 for company in COMPANIES]
    counts[0] += people - sum(counts)
    return list(zip(COMPANIES, counts, strict=True))


def _departments(company: SampleCompany, count: int) -> tuple[str, ...]:
    """Departments of a company; big ones get teams below, so that nobody leads thousands."""
    teams = count // (60 * len(company.departments))
    word = "班组" if company.language == "zh" else "Team"
    below = tuple(f"{path}/{word}{team}" for team in range(1, teams + 1) for path in company.departments)
    return company.departments + below


@dataclass(frozen=True, slots=True)
class _Facts:
    title: str
    employment_type: str
    start: date
    end: date | None
    status: str

    @property
    def is_plain(self) -> bool:
        return self.employment_type == "regular" and self.status == "active" and self.end is None

    def columns(self) -> Sequence[str]:
        return (
            self.employment_type,
            self.start.isoformat(),
            self.end.isoformat() if self.end else "",
            self.status,
        )


def _facts(
    company: SampleCompany, part: SampleSignIn | None, today: date, chance: random.Random, *, leads: bool
) -> _Facts:
    """Type, dates and status: of a hundred, 8 contractors, 4 interns, 2 dispatched, 2 starters, 2 left, 1 suspended."""
    start = today - timedelta(days=chance.randint(90, 5000))
    if part is not None:
        end = today + timedelta(days=120) if part.employment_type == "contractor" else None
        return _Facts(part.title, part.employment_type, start, end, "active")
    title = company.titles[chance.randrange(len(company.titles))]
    draw = 99 if leads else chance.randrange(100)
    if company.kind is OrganizationKind.SUPPLIER or draw < 8:
        return _Facts(title, "contractor", start, today + timedelta(days=chance.randint(30, 400)), "active")
    if draw < 12:
        start = today - timedelta(days=chance.randint(10, 120))
        return _Facts(title, "intern", start, today + timedelta(days=chance.randint(20, 180)), "active")
    if draw < 14:
        return _Facts(title, "dispatched", start, today + timedelta(days=chance.randint(60, 700)), "active")
    if draw < 16:
        return _Facts(title, "regular", today + timedelta(days=chance.randint(3, 60)), None, "active")
    if draw < 18:
        left = today - timedelta(days=chance.randint(5, 80))
        return _Facts(title, "regular", start, max(start, left), "left")
    return _Facts(title, "regular", start, None, "suspended" if draw == 18 else "active")


def _human(
    company: SampleCompany, part: SampleSignIn | None, chance: random.Random, mails: dict[str, int]
) -> list[str]:
    """Name, given name, family name, email and mobile; one in 15 has no mail, one in 5 no mobile."""
    if part is not None:
        return [part.name, part.given_name, part.family_name, f"{part.mail}@{MAIL_DOMAIN}", ""]
    if company.language == "zh":
        family, given, local = _chinese_name(chance)
        while family + given in _STORY_NAMES:
            family, given, local = _chinese_name(chance)
        name = family + given
        mobile = f"+8613{chance.randrange(10**9):09}"
    else:
        is_german = company.language == "de"
        given = chance.choice(GERMAN_GIVEN if is_german else ENGLISH_GIVEN)
        family = chance.choice(GERMAN_SURNAMES if is_german else ENGLISH_SURNAMES)
        name, local = f"{given} {family}", _latin(f"{given}.{family}")
        mobile = f"+49151{chance.randrange(10**8):08}" if is_german else f"+1313555{chance.randrange(10**4):04}"
    taken = mails[local] = mails.get(local, 0) + 1
    mail = f"{local}{taken if taken > 1 else ''}@{MAIL_DOMAIN}" if chance.random() >= 0.06 else ""
    return [name, given, family, mail, mobile if chance.random() >= 0.2 else ""]


def _chinese_name(chance: random.Random) -> tuple[str, str, str]:
    """Family name, given name of one or two characters, and both as the local part of an address."""
    family, family_reading = chance.choice(CHINESE_SURNAMES)
    syllables = [chance.choice(CHINESE_SYLLABLES) for _ in range(1 if chance.random() < 0.1 else 2)]
    reading = "".join(reading for _, reading in syllables)
    return family, "".join(character for character, _ in syllables), f"{reading}.{family_reading}"


def _latin(text: str) -> str:
    """Return a name as the local part of an address."""
    return text.lower().translate(_LATIN)


def _second_post(human: Sequence[str], leader: str, national_id: str, position: int, today: date) -> list[str]:
    """A second post of somebody at headquarters: the same human (same national id), another company and number."""
    host = COMPANIES[1 + position // 20 % 3]
    start = (today - timedelta(days=30 + position % 300)).isoformat()
    return [
        f"QX{position:06}", *human, host.name, host.departments[0], host.titles[-1], leader, "regular", start,
        "", "active", HEADQUARTERS, national_id,
    ]  # fmt: skip


def _faulty_row(count: int, previous: Sequence[str], *, today: date) -> tuple[str, Rule, list[str]]:
    """The next of the dozen: its field, its rule, and a row that breaks nothing else."""
    field, rule, wrong = FAULTS[count % len(FAULTS)]
    good = {
        "employee_number": f"QF{count:06}",
        "name": "吴刚",
        "given_name": "刚",
        "family_name": "吴",
        "email": "",
        "company": "沪东汽车销售",
        "department": "门店",
        "title": "销售顾问",
        "employment_type": "regular",
        "start_date": (today - timedelta(days=400)).isoformat(),
        "status": "active",
    }
    if rule is Rule.REPEATED_EMPLOYEE_NUMBER:
        before = dict(zip(COLUMNS, previous, strict=True))
        wrong = {"employee_number": before["employee_number"], "company": before["company"]}
    return field, rule, [{**good, **wrong}.get(column, "") for column in COLUMNS]
