"""Where a page may send a browser back to (security test T12)."""

import pytest

from idhub.pages import content_security_policy, safe_local_path


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
