"""`idhub stream`: receivers of SCIM events are named, shown and removed; what cannot be is one sentence."""

import pytest

from tests.cli.conftest import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FULL = "urn:ietf:params:scim:event:prov:patch:full"
DELETED = "urn:ietf:params:scim:event:prov:delete"


def test_stream_is_named_shown_and_removed(started: Command) -> None:
    assert started("token", "create", "--scope", "scim:read", "--name", "directory").code == 0
    header = started.folder / "header.txt"
    header.write_text("Bearer canary-secret\n", encoding="utf-8")
    made = started(
        "stream", "create", "--token", "directory", "--push", "https://receiver.example/events",
        "--authorization-file", str(header), "--event", DELETED, "--json",
    )  # fmt: skip
    polled = started("stream", "create", "--token", "directory")
    listed = started("stream", "list", "--json")
    paused = started("stream", "pause", stream_id := polled.out.split()[0])
    again = started("stream", "pause", stream_id)
    resting = started("stream", "list")
    resumed = started("stream", "resume", stream_id)
    full = started("stream", "create", "--token", "directory", "--full", "--json")
    told = started("stream", "list", "--json").json[-1]["events"]
    assert started("stream", "remove", full.json["id"]).code == 0
    removed = started("stream", "remove", made.json["id"])
    left = started("stream", "list")

    assert (made.code, polled.code, removed.code) == (0, 0, 0), (made, polled, removed)
    assert (paused.code, again.code, resumed.code) == (0, 1, 0), (paused, again, resumed)
    assert "paused" in resting.out
    assert FULL in told and FULL.replace("full", "notice") not in told
    assert made.json["method"] == "push"
    stream_id, address = polled.out.split()
    assert address.endswith(f"/scim/v2/Events/{stream_id}")
    first, second = listed.json
    assert (first["events"], first["push_url"], first["waiting"]) == ([DELETED], "https://receiver.example/events", 0)
    assert second["push_url"] is None and DELETED in second["events"]
    assert "canary-secret" not in listed.out + made.out
    stored = b"".join(path.read_bytes() for path in (started.folder / "data").iterdir() if path.is_file())
    assert b"canary-secret" not in stored
    assert stream_id in left.out and made.json["id"] not in left.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--token", "nobody"), "[token]"),
        (("--token", "directory", "--event", "urn:x"), "[event]"),
        (("--token", "directory", "--push", "http://receiver.example/e"), "https"),
        (("--token", "directory", "--push", "https://169.254.169.254/e"), "169.254.169.254"),
        (("--token", "directory", "--push", "https://10.1.2.3/e"), "10.1.2.3"),
        (("--token", "directory", "--push", "ftp://receiver.example/e"), "https"),
        (("--token", "directory", "--organization", "NOWHERE"), "organization"),
        (("--token", "directory", "--authorization-file", "missing.txt"), "missing.txt"),
        (("--token", "directory", "--audience", "a\nb"), "[audience]"),
    ],
)
def test_stream_that_cannot_be_is_refused_in_one_sentence(
    started: Command, arguments: tuple[str, ...], said: str
) -> None:
    assert started("token", "create", "--scope", "scim:read", "--name", "directory").code == 0
    done = started("stream", "create", *arguments)

    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done
    assert said in done.err
    assert started("stream", "list", "--json").json == []


def test_token_of_the_api_alone_has_no_stream(started: Command) -> None:
    assert started("token", "create", "--scope", "people:read", "--name", "directory").code == 0
    assert "[token]" in started("stream", "create", "--token", "directory").err


def test_stream_that_there_is_not_is_not_removed(started: Command) -> None:
    assert "[stream]" in started("stream", "remove", "evs_x").err
