"""Where a page may send a browser back to (security test T12)."""

import pytest

from idhub.pages import content_security_policy, form_target, safe_local_path


@pytest.mark.parametrize(
    "path", ["/", "/hr/people?q=%E6%9E%97&sort=-name", "/a/b#c", "/oidc/authorize?x=https%3A%2F%2Fe"]
)
def test_paths_of_the_hub_are_kept(path: str) -> None:
    assert safe_local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "//e",
        "/\\e",
        "\\\\e",
        "/%09/e",
        "/%0a/e",
        "/%5ce",
        "/%255ce",
        "/%2f/e/..",
        "/%2fe",
        "https:e",
        "https://e",
        "javascript:alert(1)",
        "e",
        " /e",
        "/\te",
        "/\n/e",
        "/\u202ee",
        "/" + "a" * 3000,
    ],
)
def test_everything_else_goes_home(path: str | None) -> None:
    assert safe_local_path(path) == "/"


def test_a_refused_address_goes_to_the_named_default() -> None:
    assert safe_local_path("//e", "/account") == "/account"


@pytest.mark.parametrize("origin", ["javascript:1", "https://a b", "https://e;script-src *", "https://u@e", "*", ""])
def test_a_policy_takes_origins_only(origin: str) -> None:
    with pytest.raises(ValueError, match="http or https origins"):
        content_security_policy(form_action=[origin])


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("https://app.example/callback?x=1", "https://app.example"),
        ("http://127.0.0.1:9001/cb", "http://127.0.0.1:9001"),
        ("http://[::1]:9001/cb", "http://[::1]:9001"),
        ("com.example.app:/cb", "com.example.app:"),
        ("com.example.app://cb;script-src *", "com.example.app:"),
    ],
)
def test_a_form_may_end_at_a_web_origin_or_in_an_installed_application(address: str, target: str) -> None:
    """RFC 8252 section 7.1."""
    assert form_target(address) == target
    assert content_security_policy(form_action=[address]).endswith(f"form-action 'self' {target}")


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "data:text/html,x", "file:///x", "com.app", "com.app;x:/cb", " com.app:/", "a b:/"],
)
def test_a_form_ends_nowhere_else(address: str) -> None:
    with pytest.raises(ValueError, match="http or https origins"):
        form_target(address)


def test_a_frame_is_never_an_installed_application() -> None:
    with pytest.raises(ValueError, match="http or https origins"):
        content_security_policy(frame_src=["com.example.app:/cb"])
