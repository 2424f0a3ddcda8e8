"""What every page shares: templates, languages, themes, formats, and the headers and tokens that protect a form.

Owns rendering (`Pages.render`), the choice of language and theme, the wording of times and numbers, static files with
content-addressed URLs, the Content-Security-Policy, protection against forged requests, and what counts as a safe
local address to go back to. Knows neither a route, nor a session, nor the database: `idhub.web` and the protocols
hand in what is to be shown. Entry point: `create_pages`.
"""

from idhub.pages.assets import Asset, Assets
from idhub.pages.cookies import BROWSER_COOKIE, new_browser_token
from idhub.pages.formats import Formatter
from idhub.pages.language import LANGUAGES, N_, Language, load_translations, negotiate_language
from idhub.pages.render import Pages, create_pages, local_address
from idhub.pages.security import CsrfGuard, content_security_policy, form_target, safe_local_path, security_headers

__all__ = [
    "BROWSER_COOKIE",
    "LANGUAGES",
    "N_",
    "Asset",
    "Assets",
    "CsrfGuard",
    "Formatter",
    "Language",
    "Pages",
    "content_security_policy",
    "create_pages",
    "form_target",
    "load_translations",
    "local_address",
    "negotiate_language",
    "new_browser_token",
    "safe_local_path",
    "security_headers",
]
