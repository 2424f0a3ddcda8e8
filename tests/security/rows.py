"""The attack rows that this hub answers for: id, what is tried, what must be seen, and the tests that show it.

Ids are those of the advisories and standards in `source`. A row about something that the hub does not have stands in
`ABSENT` with the sign by which it would be noticed: a row comes back to life when that sign appears in a route.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row, and the tests that fail when it breaks."""

    source: str
    what: str
    expected: str
    shown_by: tuple[str, ...]


@dataclass(frozen=True)
class Absent:
    """One row that cannot be tried, because nothing of the kind exists."""

    what: str
    reason: str
    signs: tuple[str, ...]
    """Parts of route paths, or grant types, that would make the row due."""


_AUTHORIZE = "tests/oidc/test_authorize.py::"
_TOKEN = "tests/oidc/test_token.py::"
_FLOW = "tests/oidc/test_code_flow.py::"
_HOSTILE = "tests/oidc/test_hostile_tokens.py::"
_WIRE = "tests/providers/test_saml_wire.py::"
_SAML = "tests/saml/test_attacks.py::"
_ARTIFACT = "tests/saml/test_artifact.py::"
_UPSTREAM = "tests/saml/test_upstream.py::"
_READ = "tests/providers/test_saml.py::"
_LOGOUT = "tests/oidc/test_logout.py::"
_RACES = "tests/oidc/test_races.py::"
_LOGIN = "tests/web/test_login_pages.py::"
_PASSWORDS = "tests/login/test_passwords.py::"
_THROTTLING = "tests/login/test_throttling.py::"
_PLACES = "tests/login/test_addresses.py::"
_SIGN_IN = "tests/login/test_sign_in.py::"
_LINKS = "tests/login/test_invitations.py::"
_PAGES = "tests/web/test_pages.py::"
_DOORS = "tests/flows/test_every_door.py::"
_BAD = "tests/flows/test_bad_input.py::"
_HTTP = "tests/delivery/test_http.py::"
_MISTAKES = "tests/lifecycle/test_hr_mistakes.py::"
_ADDRESSES = "tests/delivery/test_addresses.py::"
_URIS = "tests/access/test_uris.py::"
_LOGS = "tests/test_logs.py::"
_HEADERS = "tests/security/test_headers.py::"
_MATRIX = "tests/security/test_matrix.py::"
_REDIRECTS = "tests/security/test_redirects.py::"
_ROLES = "tests/security/test_roles.py::"
_SERVER = "tests/security/test_server.py::"
_FUZZ = "tests/security/test_fuzz.py::"
_SESSIONS = "tests/credentials/test_sessions.py::"
_API = "tests/api/test_authority.py::"
_SCIM = "tests/api/test_scim.py::"
_SCIM_SERVER = "tests/scim/test_server.py::"
_HOSTILE_ALL = (f"{_HOSTILE}test_no_endpoint_believes_a_token_that_is_not_ours",)
_KINDS = (f"{_MATRIX}test_a_verifier_takes_its_own_kind_and_no_other",)

ROWS: dict[str, Row] = {
    # ------------------------------------------------------------------ SAML
    "S01": Row("CVE-2025-47949 and others", "eight forms of signature wrapping", "refused; what was signed is read", (
        f"{_WIRE}test_signature_wrapping", f"{_WIRE}test_signature_wrapping_of_an_assertion_in_a_response",
        f"{_SAML}test_a_wrapped_sign_on_is_refused", f"{_SAML}test_a_wrapped_logout_ends_nobodys_session",
        f"{_ARTIFACT}test_a_wrapped_or_downgraded_question_fetches_nothing")),
    "S02": Row("CVE-2017-11427", "a comment, instruction or CDATA splits a text", "read whole, or refused", (
        f"{_WIRE}test_a_text_is_read_whole", f"{_WIRE}test_only_blanks_of_xml_are_taken_off_a_text",
        f"{_SAML}test_a_split_issuer_is_read_whole")),
    "S03": Row("CVE-2024-45409", "a second DigestValue", "refused", (
        f"{_WIRE}test_other_algorithms_and_forms_are_refused", f"{_SAML}test_a_downgraded_signature_is_refused")),
    "S07": Row("CVE-2022-41912", "two assertions, one signed", "the verified one is read, or none", (
        f"{_WIRE}test_signature_wrapping_of_an_assertion_in_a_response",)),
    "S10": Row("CVE-2026-9098", "a message again: another process, after a restart, at once", "answered once", (
        f"{_SAML}test_a_message_works_once_over_processes_and_restarts",
        f"{_ARTIFACT}test_it_works_once_over_processes_and_restarts",
        f"{_SAML}test_two_resumptions_of_one_sign_on_answer_once",
        f"{_DOORS}test_every_door_what_one_worker_has_spent_no_other_takes")),
    "S11": Row("CVE-2026-9093", "audience, times, Recipient of an assertion wrong, each in turn", "refused by name", (
        f"{_READ}test_each_thing_that_does_not_hold_is_refused_by_name",)),
    "S12": Row("CVE-2021-21239", "a key of the message's own; a signature lifted from metadata", "refused", (
        f"{_WIRE}test_the_key_is_the_partners_never_the_messages",)),
    "S13": Row("CVE-2016-10127", "DTD, external entity, billion laughs, XInclude", "refused, nothing fetched", (
        f"{_WIRE}test_documents_that_are_not_read", f"{_WIRE}test_billion_laughs_and_their_siblings",
        f"{_SAML}test_documents_that_reach_out_or_blow_up",
        "tests/saml/test_configuration.py::test_metadata_that_cannot_be_used")),
    "S14": Row("CVE-2025-25293", "inflate bombs, deep nesting", "refused before they are large", (
        f"{_WIRE}test_inflate_bombs_are_stopped_before_they_are_large",
        f"{_SAML}test_documents_that_reach_out_or_blow_up")),
    "S15": Row("CVE-2023-45683", "`javascript:` as consumer service; script in RelayState", "refused; escaped", (
        "tests/saml/test_configuration.py::test_metadata_that_cannot_be_used",
        f"{_SAML}test_what_is_carried_to_the_application_is_escaped")),
    "S16": Row("SAML Core 3.4.1", "a consumer service that is not registered", "shown, nothing sent", (
        "tests/saml/test_sign_on.py::test_a_request_that_cannot_be_trusted_is_shown",
        "tests/wsfed/test_sign_in.py::test_answers_go_to_registered_addresses_to_the_letter")),
    "S18": Row("GHSA-pcgw-qcv5-h8ch", "a logout that is not signed, or of somebody else's person", "refused", (
        "tests/saml/test_logout.py::test_logout_messages_must_be_signed",
        "tests/saml/test_logout.py::test_an_application_signs_out_its_own_people_and_sessions_alone")),
    "S21": Row("CVE-2015-20108", "an ID that is an expression", "refused: no XML name", (
        "tests/saml/test_sign_on.py::test_a_request_that_cannot_be_trusted_is_shown",)),
    "S23": Row("CVE-2017-1000246", "a nonce that comes twice", "fresh key and nonce each time, GCM", (
        f"{_WIRE}test_an_encrypted_assertion_is_opened_by_xmlsec_and_no_nonce_comes_twice",)),
    "S24": Row("CVE-2009-0217", "truncated MAC, XSLT, XPath, SHA-1, HMAC", "allowed algorithms, two transforms", (
        f"{_WIRE}test_other_algorithms_and_forms_are_refused", f"{_WIRE}test_algorithms_of_the_redirect_binding",
        f"{_SAML}test_a_downgraded_signature_is_refused")),
    "S25": Row("GHSA-hwqm-qvj9-4jr2", "padding of CBC as an oracle", "CBC refused unread; failures alike", (
        f"{_READ}test_weak_encryption_is_refused_before_a_key_is_touched",
        f"{_READ}test_what_cannot_be_decrypted_fails_alike")),
    "F01-F14": Row("nOAuth and others", "linking by what a person or another provider can change", "by rules alone", (
        f"{_UPSTREAM}test_a_mail_address_is_a_name_only_in_a_domain_of_the_provider",
        f"{_UPSTREAM}test_the_same_subject_of_two_providers_is_two",
        f"{_UPSTREAM}test_a_link_is_of_the_session_that_wanted_it",
        f"{_UPSTREAM}test_linking_wants_a_proof_of_lately")),
    "S27": Row("RelayState", "`javascript:`, `//evil`, long", "handed back as it came, followed by nobody", (
        f"{_SAML}test_what_is_carried_to_the_application_is_escaped",
        "tests/wsfed/test_sign_in.py::test_the_context_comes_back_byte_for_byte")),
    # ------------------------------------------------------------------ OAuth and OpenID Connect
    "A01": Row("CVE-2024-8883", "loopback address as a prefix of another host", "error page, no redirect", (
        f"{_AUTHORIZE}test_loopback_is_matched_by_host_and_path_never_by_prefix",
        f"{_REDIRECTS}test_only_what_is_registered_or_another_loopback_port_is_redirected_to")),
    "A03": Row("CVE-2026-3872", "dot segments, encoded or with `;`, in redirect_uri", "error page, no redirect", (
        f"{_AUTHORIZE}test_redirect_uris_are_compared_exactly_whatever_the_response_mode",
        f"{_REDIRECTS}test_no_mutation_is_ever_redirected_by_the_endpoints")),
    "A04": Row("wildcard without boundary", "`*` in a registered address", "refused at registration", (
        f"{_URIS}test_a_dangerous_address_is_refused_by_its_rule",)),
    "A05": Row("CVE-2026-9086", "`JaVaScRiPt:`, `data:`, leading TAB or NUL", "refused at registration", (
        f"{_URIS}test_a_dangerous_address_is_refused_by_its_rule",
        f"{_REDIRECTS}test_what_may_be_registered_is_read_alike_by_a_browser")),
    "A06": Row("CVE-2023-6927", "bad redirect_uri with every response_mode", "error page for each", (
        f"{_AUTHORIZE}test_redirect_uris_are_compared_exactly_whatever_the_response_mode",)),
    "A07": Row("CVE-2022-36087", "broken IPv6, 64 KB, lone surrogates in redirect_uri", "400, never a fault", (
        f"{_AUTHORIZE}test_unreadable_values_are_never_a_server_error",
        f"{_REDIRECTS}test_no_mutation_is_ever_redirected_by_the_endpoints")),
    "A08": Row("RFC 6749 section 4.1.2", "50 redemptions of one code at once", "one success; after a replay all dead", (
        f"{_RACES}test_fifty_redemptions_at_once_over_four_workers_succeed_once",
        f"{_TOKEN}test_a_code_redeemed_twice_is_refused_and_revokes_tokens",
        f"{_TOKEN}test_single_use_survives_a_restart",
        f"{_DOORS}test_every_door_what_one_worker_has_spent_no_other_takes")),
    "A10": Row("GO-2024-2479", "no verifier, no challenge, `plain`, wrong lengths", "refused", (
        f"{_AUTHORIZE}test_a_bad_parameter_goes_back_to_the_client_by_name",
        f"{_TOKEN}test_a_code_needs_the_verifier_of_its_challenge")),
    "A14": Row("RFC 9207", "which provider answered", "`iss` in every answer, errors too", (
        f"{_FLOW}test_a_signed_in_person_gets_a_code_with_state_and_issuer",
        f"{_AUTHORIZE}test_a_bad_parameter_goes_back_to_the_client_by_name")),
    "A19": Row("keycloak#35813", "refresh token revoked, access token of the grant tried", "inactive", (
        f"{_TOKEN}test_revoking_a_refresh_token_ends_access_tokens_of_the_grant",
        f"{_DOORS}test_every_door_a_token_revoked_at_one_worker_is_dead_with_its_grant_at_another")),
    "A22": Row("CVE-2026-1609", "every grant by somebody who may not act now", "invalid_grant", (
        f"{_TOKEN}test_every_door_every_grant_refuses_somebody_whose_access_ended",
        f"{_TOKEN}test_every_door_before_the_first_day_and_after_the_last_nothing_is_granted",
        f"{_TOKEN}test_every_door_a_service_identity_that_may_not_act_begins_nothing")),
    "A24": Row("CVE-2023-34246", "second visit to a public client", "asked again", (
        f"{_AUTHORIZE}test_a_public_client_asks_every_time",)),
    "A25": Row("CVE-2014-8144", "consent posted by another site", "refused", (
        f"{_LOGIN}test_consent_cannot_be_forged_or_given_by_nobody",)),
    "A26": Row("CVE-2019-8400", "script in error, state, names", "escaped, and stopped by the policy", (
        f"{_LOGIN}test_the_error_page_never_shows_what_came_with_the_request", f"{_PAGES}test_values_are_escaped")),
    "A28": Row("RFC 6749 section 3.1", "a parameter twice", "invalid_request", (
        f"{_AUTHORIZE}test_a_parameter_given_twice_is_refused", f"{_TOKEN}test_parameters_in_the_url_are_refused")),
    "A29": Row("OIDC Core 3.1.2.1", "id_token_hint of somebody else with prompt=none", "login_required", (
        f"{_AUTHORIZE}test_an_id_token_hint_of_somebody_else_never_yields_the_current_persons_code",
        f"{_AUTHORIZE}test_an_id_token_of_another_client_is_no_hint")),
    "A31": Row("RFC 9700 section 4.12", "redirect after a POST", "303, never 307", (
        f"{_AUTHORIZE}test_a_posted_request_is_answered_by_303", f"{_LOGOUT}test_a_posted_logout_is_answered_by_303",
        f"{_HEADERS}test_every_answer_of_every_route_protects_itself")),
    "A32": Row("keycloak#51712", "post_logout_redirect_uri unregistered, extended, another client's", "no redirect", (
        f"{_LOGOUT}test_only_a_registered_address_is_returned_to",
        f"{_LOGOUT}test_an_address_that_was_taken_away_meanwhile_is_not_returned_to",
        f"{_REDIRECTS}test_no_mutation_is_ever_redirected_by_the_endpoints")),
    "9700-4.11": Row("RFC 9700 section 4.11", "unknown client at authorize", "page, no redirect", (
        f"{_AUTHORIZE}test_an_unknown_or_disabled_client_is_shown_an_error",)),
    "9700-4.3": Row("RFC 9700 section 4.3.2", "token in the URL", "refused", (
        f"{_HOSTILE}test_userinfo_wants_one_token_in_one_place",)),
    "9700-4.14": Row("RFC 9700 section 4.14", "refresh token used twice, by another, beyond its scope", "family dead", (
        f"{_TOKEN}test_a_refresh_token_rotates_and_its_reuse_kills_the_family",
        f"{_TOKEN}test_a_refresh_token_of_another_client_is_refused",
        f"{_TOKEN}test_scope_may_shrink_and_never_grow",
        f"{_TOKEN}test_a_refresh_token_has_an_idle_and_an_absolute_end",
        f"{_DOORS}test_every_door_a_token_revoked_at_one_worker_is_dead_with_its_grant_at_another")),
    "9700-4.15": Row("RFC 9700 section 4.15", "client_id that is a person's `sub`", "never equal", (
        "tests/security/test_subjects.py::test_a_client_id_is_never_a_subject",
        "tests/access/test_applications.py::test_a_client_id_that_names_a_principal_is_refused")),
    "CORE-16.11": Row("OIDC Core 16.11", "token of another client", "nothing learned", (
        f"{_FLOW}test_another_client_learns_nothing_about_a_token",
        f"{_FLOW}test_the_resource_that_a_token_is_for_may_ask_about_it")),
    "CORE-16.13": Row("OIDC Core 16.3, 16.13", "each part of a token changed", "refused", _HOSTILE_ALL),
    # ------------------------------------------------------------------ JOSE
    "J01": Row("CVE-2026-28802", "`none` in any spelling, no alg, no signature", "refused everywhere", _HOSTILE_ALL),
    "J02": Row("CVE-2022-29217", "HMAC keyed with our public key in every encoding", "refused", _HOSTILE_ALL),
    "J05": Row("CVE-2026-27962", "own key in `jwk`", "refused", _HOSTILE_ALL),
    "J06": Row("RFC 8725 section 3.10", "`jku`, `x5u`, `x5c`, hostile `kid`", "refused, nothing fetched", _HOSTILE_ALL),
    "J07": Row("CVE-2025-59420", "unknown or empty `crit`, `b64: false`", "refused", _HOSTILE_ALL),
    "J08": Row("CVE-2025-61920", "huge header or token", "refused before any work", (
        *_HOSTILE_ALL, f"{_SERVER}test_headers_have_a_size", f"{_SERVER}test_bodies_have_a_size")),
    "J09": Row("CVE-2024-28180", "`zip: DEF`", "refused", _HOSTILE_ALL),
    "J14": Row("CVE-2023-51774", "JWE, or another serialization, where a JWS is due", "refused", _HOSTILE_ALL),
    "J16": Row("RFC 8725 sections 3.11, 3.12", "each kind at every other verifier", "refused", _KINDS),
    "J18": Row("GHSA-5739-39v2-5754", "JSON serialization", "refused", _HOSTILE_ALL),
    "J20": Row("type juggling", "claims of types that they never have", "refused, no fault", _HOSTILE_ALL),
    "J23": Row("CVE-2022-21449", "signature of zeros", "refused", _HOSTILE_ALL),
    # ------------------------------------------------------------------ sessions, cookies, forms, pages
    "T01": Row("CVE-2024-28197", "cookie set before signing in", "new session id, old one dead", (
        f"{_LOGIN}test_a_cookie_set_before_signing_in_gets_no_session",
        f"{_SIGN_IN}test_a_new_sign_in_makes_a_new_session_and_the_old_one_is_dead")),
    "T02": Row("CVE-2021-32677", "text/plain from another site to every route that changes", "415 or 422", (
        f"{_BAD}test_what_a_signed_in_person_is_refused_is_an_event_of_theirs",
        f"{_LOGIN}test_every_form_takes_only_what_a_form_sends",
        f"{_ROLES}test_no_form_is_taken_that_this_browser_was_not_given",
        "tests/api/test_bad_input.py::test_only_json_that_says_so_is_read")),
    "T03": Row("CVE-2015-9284", "sign-in form of another site", "refused", (
        f"{_LOGIN}test_a_form_of_another_site_signs_nobody_in",
        f"{_LOGIN}test_a_form_without_this_browsers_token_signs_nobody_in",
        f"{_ROLES}test_no_form_is_taken_that_this_browser_was_not_given")),
    "T06": Row("CVE-2024-47070", "garbage X-Forwarded-For; Host and Proto of another site", "one public address", (
        f"{_PLACES}test_only_trusted_proxies_are_believed_and_garbage_skips_nothing",
        f"{_TOKEN}test_addresses_are_those_that_trusted_proxies_vouch_for",
        f"{_HEADERS}test_no_header_of_a_request_changes_where_the_hub_believes_to_be",
        f"{_LINKS}test_the_link_is_built_from_the_issuer_and_hides_nothing_in_its_host")),
    "T07": Row("CVE-2025-64484", "`X_Forwarded_User` and its like", "ignored", (
        f"{_HEADERS}test_nobody_is_who_a_header_says",)),
    "T09": Row("CVE-2022-23555", "link used twice, in parallel, a second late", "one use", (
        f"{_LINKS}test_a_link_works_once", f"{_LINKS}test_fifty_parallel_spends_have_exactly_one_success",
        f"{_LINKS}test_a_link_is_dead_the_moment_it_expires",
        f"{_DOORS}test_every_door_what_one_worker_has_spent_no_other_takes")),
    "T10": Row("CVE-2026-34454", "somebody else signs in in the same browser", "nothing of the former is left", (
        f"{_LOGIN}test_signing_in_as_somebody_else_ends_the_former_session",
        f"{_SIGN_IN}test_another_person_in_the_same_browser_ends_the_former_ones_session")),
    "T11": Row("CVE-2024-41657", "any Origin at every route", "no CORS header", (
        f"{_HEADERS}test_no_other_site_reads_anything",)),
    "T12": Row("CVE-2026-40295", "`//e`, `/\\e`, `/%09/e`, `https:e` as return address", "home", (
        "tests/web/test_addresses.py::test_everything_else_goes_home",
        f"{_LOGIN}test_nobody_is_sent_to_another_site_after_signing_in")),
    "T13": Row("CVE-2025-62727", "20 KB Range, 10,000 parts, huge bodies", "4xx, no fault", (
        f"{_BAD}test_bad_input_is_refused_clearly_and_changes_nothing", f"{_SERVER}test_bodies_have_a_size",
        f"{_SERVER}test_headers_have_a_size")),
    "T16": Row("RFC 9700 section 4.16", "a page in a frame", "frame-ancestors 'none' everywhere", (
        f"{_HEADERS}test_every_answer_of_every_route_protects_itself",)),
    "T18": Row("GHSA-x883-2vmg-xwf7", "a right that was taken away", "gone at the next request, or within a second", (
        f"{_TOKEN}test_a_changed_registration_counts_within_a_second",
        f"{_SESSIONS}test_every_door_a_leave_a_suspension_and_a_restore_end_sessions",
        f"{_DOORS}test_every_door_at_another_worker_a_leave_ends_everything_at_once_and_after_a_restart",
        f"{_DOORS}test_every_door_a_role_taken_away_at_one_worker_opens_nothing_at_another")),
    "9112-11.2": Row("RFC 9112 section 11.2", "length against chunks, doubled, signed, folded", "400, one answer", (
        f"{_SERVER}test_a_request_of_which_a_proxy_could_see_another_end_is_refused",
        f"{_SERVER}test_a_broken_request_line_is_a_400_and_ends_the_connection")),
    "LORIS": Row("slow loris", "head or body byte by byte, or nothing at all", "408 in time, others undisturbed", (
        "tests/security/test_slow_clients.py::test_who_sends_too_slowly_is_let_go",)),
    "OVERRIDE": Row("method override", "header or field that names another method", "ignored", (
        f"{_HEADERS}test_a_method_is_what_the_request_line_says",)),
    # ------------------------------------------------------------------ ASVS 5.0
    "V6.2.1": Row("ASVS 6.2.1, 6.2.9; NIST 63B", "passwords of 14, 15, 64, 128 characters", "15 and more are taken", (
        f"{_PASSWORDS}test_length_decides", f"{_PASSWORDS}test_128_characters_of_any_script_are_taken")),
    "V6.2.3": Row("ASVS 6.2.3", "password changed without the current one", "refused", (
        f"{_LOGIN}test_a_password_is_changed_only_with_the_current_one_and_within_the_policy",
        f"{_LOGIN}test_whoever_sits_at_a_session_guesses_its_password_as_little_as_at_the_door")),
    "V6.2.4": Row("ASVS 6.2.4, 6.2.11, 6.2.12", "common, leaked, and the company's own words", "refused by reason", (
        f"{_PASSWORDS}test_what_attackers_try_first_is_refused_by_name_of_reason",
        f"{_PASSWORDS}test_names_of_company_and_person_are_refused_by_name_of_reason")),
    "V6.2.5": Row("ASVS 6.2.5; NIST 63B", "one letter over and over, no digit", "composition is never the reason", (
        f"{_PASSWORDS}test_composition_is_never_the_reason",)),
    "V6.2.8": Row("ASVS 6.2.8", "other case, 73rd byte, blank at the end", "refused", (
        f"{_PASSWORDS}test_nothing_is_trimmed_folded_or_cut", f"{_PASSWORDS}test_the_73rd_byte_counts",
        f"{_LOGIN}test_a_password_is_compared_whole_and_untrimmed")),
    "V6.3.2": Row("ASVS 6.3.2", "admin/admin and its like on a fresh hub", "there is no account", (
        "tests/security/test_subjects.py::test_a_fresh_hub_has_no_account_and_no_password",)),
    "V6.3.4": Row("ASVS 6.3.4", "every way in by somebody who may not", "the same refusal", (
        f"{_DOORS}test_every_door_that_ends_an_employment_ends_every_credential",
        f"{_LOGIN}test_every_cause_of_refusal_looks_the_same")),
    "V6.4.1": Row("ASVS 6.4.1", "first password", "one use, with an end", (
        f"{_LINKS}test_a_link_works_once", f"{_LINKS}test_a_link_is_dead_the_moment_it_expires",
        f"{_DOORS}test_every_door_what_one_worker_has_spent_no_other_takes")),
    "V7.2.3": Row("ASVS 7.2.3, 11.5.1", "ids and secrets", "256 random bits, never a UUID", (
        "tests/credentials/test_opaque.py::test_values_never_repeat_and_their_hash_is_sha_256",)),
    "V7.3": Row("ASVS 7.3.1, 7.3.2", "idle and absolute end of a session", "both hold", (
        f"{_SESSIONS}test_a_session_ends_when_idle_and_in_any_case",)),
    "V7.4.1": Row("ASVS 7.4.1", "old cookie after logout", "refused by the server", (
        f"{_LOGIN}test_logout_shows_what_it_ends_and_ends_it_when_posted",
        f"{_DOORS}test_every_door_who_signs_out_at_one_worker_is_signed_out_at_every_other")),
    "V7.4.2": Row("ASVS 7.4.2", "sessions of somebody who left", "dead at once", (
        f"{_DOORS}test_every_door_that_ends_an_employment_ends_every_credential",
        f"{_DOORS}test_every_door_at_another_worker_a_leave_ends_everything_at_once_and_after_a_restart")),
    "V7.4.3": Row("ASVS 7.4.3", "after a new password", "other sessions end", (
        f"{_LOGIN}test_a_changed_password_keeps_this_browser_and_ends_the_others",)),
    "V7.5.2": Row("ASVS 7.5.2", "own sessions", "listed and ended", (
        f"{_LOGIN}test_own_sessions_are_listed_and_ended_one_by_one_or_all_others",
        f"{_LOGIN}test_the_session_of_somebody_else_cannot_be_ended")),
    "V7.6.1": Row("ASVS 7.6.1", "max_age", "honoured", (
        f"{_AUTHORIZE}test_max_age_and_prompt_login_ask_for_the_password_again",)),
    "V8.2": Row("ASVS 8.2.1 to 8.2.3", "every role at every page, every scope everywhere", "each cell asserted", (
        f"{_ROLES}test_a_role_finds_what_is_its_own_and_nothing_else", f"{_ROLES}test_every_page_has_its_row",
        f"{_API}test_a_scope_opens_its_endpoints_and_no_other", f"{_API}test_every_endpoint_has_its_row")),
    "V8.3.2": Row("ASVS 8.3.2", "permission taken away", "the next request is refused", (
        "tests/security/test_subjects.py::test_a_role_taken_away_is_gone_at_the_next_request",
        f"{_DOORS}test_every_door_a_role_taken_away_at_one_worker_opens_nothing_at_another")),
    "V8.4.1": Row("ASVS 8.4.1", "ids of another company's objects", "404", (
        f"{_ROLES}test_a_role_finds_what_is_its_own_and_nothing_else",
        f"{_API}test_a_company_limit_hides_everybody_else", f"{_API}test_a_company_limit_filters_lists")),
    "P06": Row("CVE-2026-14613 and others", "counts, orders, filters, refusals of another company", "the same told", (
        "tests/security/test_elsewhere.py::test_what_happens_in_another_company_is_told_nobody_of_this_one",
        "tests/provisioning/reconcile/test_payroll.py::test_people_of_two_companies_are_shown_to_whoever_sees_both")),
    "X04": Row("import bombs", "a cell of nothing but accents", "refused as fast as any", (
        "tests/providers/test_hr_rules.py::test_cell_of_nothing_but_accents_is_refused_as_fast_as_any",)),
    "V10.4.4": Row("ASVS 10.4.4; RFC 9700 section 2.4", "implicit, password and unregistered grants", "refused", (
        *_KINDS, f"{_TOKEN}test_a_bad_token_request_is_named_and_recorded",
        f"{_AUTHORIZE}test_a_client_without_the_grant_of_codes_is_shown_an_error")),
    "V10.4.8": Row("ASVS 10.4.8", "refresh token after its absolute end", "refused", (
        f"{_TOKEN}test_a_refresh_token_has_an_idle_and_an_absolute_end",)),
    "V10.4.10": Row("ASVS 10.4.10", "client without its proof at token, introspection, revocation", "401", (
        *_KINDS, f"{_TOKEN}test_unknown_client_and_wrong_secret_are_told_apart_by_nobody")),
    "V10.6.2": Row("ASVS 10.6.2", "logout by a link or another site", "nobody is signed out", (
        f"{_LOGIN}test_nobody_is_signed_out_by_a_link_or_another_sites_form",)),
    "V11.4.2": Row("ASVS 11.4.2; RFC 9106", "stored passwords", "argon2id with the settings' costs", (
        f"{_PASSWORDS}test_hashes_are_argon2id_with_the_costs_of_the_settings",)),
    "V16.3": Row("ASVS 16.3.1 to 16.3.4", "successes, failures, denials", "each has its event", (
        f"{_BAD}test_what_a_person_may_not_do_is_an_event_of_theirs", f"{_FLOW}test_issuing_and_spending_is_recorded",
        f"{_FUZZ}test_the_api")),
    "V16.5": Row("ASVS 16.5.1 to 16.5.4", "a fault or a part that is down", "closed, general words, a number", (
        "tests/credentials/test_store.py::test_a_lock_that_stays_is_a_503_and_changes_nothing",
        "tests/security/test_subjects.py::test_a_fault_says_its_number_and_nothing_else")),
    # ------------------------------------------------------------------ brute force
    "B03": Row("CVE-2026-23511", "known and unknown names, links, clients", "same words, same work", (
        f"{_LOGIN}test_every_cause_of_refusal_looks_the_same",
        f"{_SIGN_IN}test_unknown_and_known_names_cost_one_verification_each",
        f"{_THROTTLING}test_unknown_names_are_counted_exactly_as_known_ones",
        f"{_TOKEN}test_unknown_client_and_wrong_secret_are_told_apart_by_nobody")),
    "B04": Row("long password", "a megabyte as a password", "refused before hashing", (
        f"{_PASSWORDS}test_more_than_1024_bytes_are_refused_before_hashing",
        f"{_PASSWORDS}test_a_full_queue_refuses_at_once_and_recovers")),
    "B05": Row("CVE-2016-7036", "comparisons of secrets", "constant time", (
        "tests/security/test_subjects.py::test_secrets_are_compared_in_constant_time",)),
    "B06": Row("lock-out as denial of service", "strangers fail for a director", "own browser and place still work", (
        f"{_THROTTLING}test_a_stranger_cannot_lock_out_a_remembered_browser",
        f"{_THROTTLING}test_a_stranger_cannot_lock_out_a_place_with_a_success_before")),
    "B07": Row("rotation of X-Forwarded-For", "a new address a try", "counted as the one who sent it", (
        f"{_PLACES}test_without_trusted_proxies_nothing_forwarded_is_read",
        f"{_TOKEN}test_addresses_are_those_that_trusted_proxies_vouch_for")),
    "B08": Row("spraying", "one password for many names, from one address or from many", "slowed, nobody locked out", (
        f"{_THROTTLING}test_spraying_many_names_from_one_address_is_stopped",
        f"{_THROTTLING}test_one_password_for_many_names_from_many_addresses_is_stopped",
        f"{_THROTTLING}test_a_spray_locks_out_nobody_who_is_known")),
    "B09": Row("RFC 6749 section 10.10", "guessing client secrets, over all processes", "limited and reported", (
        f"{_TOKEN}test_guessing_a_secret_is_limited_per_client_and_address",
        f"{_TOKEN}test_wrong_secrets_are_counted_over_all_processes_and_restarts",
        f"{_TOKEN}test_an_address_that_gets_many_clients_wrong_is_in_the_log")),
    # ------------------------------------------------------------------ logs
    "G01": Row("CVE-2020-7694", "CR, LF, ESC, U+2028, bidi in any field", "one line, escaped", (
        f"{_LOGS}test_no_value_can_end_or_turn_a_line",)),
    "G04": Row("actor spoofing", "headers and fields that name somebody", "the actor is who was authenticated", (
        f"{_HEADERS}test_nobody_is_who_a_header_says",
        "tests/security/test_subjects.py::test_the_actor_of_an_event_is_who_was_authenticated")),
    "G05": Row("CVE-2024-32967", "what an error page tells", "a number and nothing of the inside", (
        "tests/security/test_subjects.py::test_no_route_tells_what_a_fault_was",
        "tests/security/test_subjects.py::test_a_fault_says_its_number_and_nothing_else",
        f"{_LOGS}test_exceptions_carry_no_local_variables")),
    # ------------------------------------------------------------------ downloads
    "X05": Row("exports", "who may download, and whether it is seen", "rights as on the page", (
        f"{_ROLES}test_a_role_finds_what_is_its_own_and_nothing_else",
        "tests/security/test_subjects.py::test_no_download_is_a_spreadsheet")),
    # ------------------------------------------------------------------ evidence in anybody's hands
    "D35": Row("forged exports and proofs", "each byte changed, cut anywhere, lines doubled, more names", "not valid", (
        "tests/audit/test_forged.py::test_no_byte_of_an_export_can_be_another",
        "tests/audit/test_forged.py::test_no_byte_of_a_proof_can_be_another",
        "tests/audit/test_forged.py::test_what_was_cut_short_anywhere_is_not_believed",
        "tests/audit/test_forged.py::test_no_line_stands_twice",
        "tests/audit/test_forged.py::test_no_line_says_more_than_was_checked",
        "tests/audit/test_forged.py::test_nothing_stands_behind_the_end",
        "tests/audit/test_verify.py::test_tampering_is_found_and_located")),
    "D36": Row("forged receipts", "names twice, more than was signed, every character flipped", "not valid", (
        "tests/lifecycle/test_receipt_document.py::test_name_that_stands_twice_is_unreadable",
        "tests/lifecycle/test_receipt_document.py::test_file_that_says_more_than_was_signed_is_refused",
        "tests/lifecycle/test_receipt_document.py::test_flipped_character_is_never_valid")),
    "D37": Row("HR files", "rows about the wrong human, everybody under new numbers, another company's file", "nobody "
        "becomes a colleague, nobody is there twice, nobody is off", (
        f"{_MISTAKES}test_column_sorted_without_the_others_changes_nobody",
        f"{_MISTAKES}test_company_whose_numbers_were_all_written_otherwise_is_not_there_twice",
        f"{_MISTAKES}test_national_id_of_a_leaver_gives_a_joiner_of_another_name_nothing_of_theirs",
        f"{_MISTAKES}test_file_of_one_company_sent_as_another_empties_no_small_company")),
    "D38": Row("HR files", "a release by one human twice, by whom it is about, after a newer word", "refused", (
        f"{_MISTAKES}test_one_human_under_two_accounts_is_not_two_people",
        f"{_MISTAKES}test_nobody_releases_a_run_that_holds_their_own_leave",
        f"{_MISTAKES}test_release_waits_for_a_newer_file_that_is_being_read",
        f"{_MISTAKES}test_what_two_people_have_approved_waits_for_a_newer_file_too",
        f"{_MISTAKES}test_release_lets_nobody_go_whom_a_newer_word_of_the_file_keeps")),
    # ------------------------------------------------------------------ outbound calls
    "R01": Row("CVE-2026-1180", "addresses inside, metadata services, file: and gopher:", "refused stored and called", (
        f"{_ADDRESSES}test_an_address_inside_is_refused_whatever_name_leads_to_it",
        f"{_ADDRESSES}test_a_url_that_names_an_address_inside_is_refused_before_any_connection",
        f"{_ADDRESSES}test_a_url_that_could_lead_elsewhere_is_refused",
        f"{_ADDRESSES}test_a_named_host_may_be_inside_but_never_where_metadata_services_live",
        "tests/api/test_scim_push.py::test_nothing_is_sent_where_the_hub_does_not_connect")),
    "R02": Row("CVE-2026-4366", "redirects of what is called", "not followed, nothing taken for done", (
        f"{_HTTP}test_a_redirect_is_an_answer_and_is_not_followed",
        "tests/cas/test_logout.py::test_a_message_that_is_wanted_elsewhere_was_not_taken")),
    "R08": Row("untrue answers", "success for another's account, with an error or a page as its body", "no proof", (
        "tests/provisioning/test_untrue.py::test_create_that_is_answered_with_a_colleagues_account_links_nothing",
        "tests/provisioning/test_untrue.py::test_search_that_is_answered_with_a_colleagues_account_switches_it_not_off",
        "tests/provisioning/test_untrue.py::test_success_with_an_error_as_its_body_is_a_failure",
        "tests/provisioning/test_untrue.py::test_two_words_on_whether_it_is_active_prove_nothing",
        "tests/provisioning/test_untrue.py::test_group_that_is_answered_with_another_group_is_not_linked",
        f"{_HTTP}test_an_answer_that_nobody_asked_for_answers_no_later_question",
        "tests/api/test_scim_push.py::test_success_with_a_page_or_an_error_is_no_taking")),
    "R04": Row("one client for all", "a call out by another way", "there is none", (
        f"{_HTTP}test_nothing_else_in_the_hub_calls_out",)),
    "R07": Row("DNS rebinding, ports, spellings", "a name that leads inside later", "one look, that address", (
        f"{_HTTP}test_a_name_is_resolved_once_and_the_vetted_address_is_the_one_connected",
        f"{_HTTP}test_a_name_that_leads_inside_is_refused_and_nothing_is_connected",
        f"{_HTTP}test_other_spellings_of_this_machine_are_refused")),
    "R09": Row("slow or huge reply", "a byte now and then, endless, a bomb", "deadline and cap", (
        f"{_HTTP}test_a_reply_of_one_byte_now_and_then_ends_at_the_total_deadline",
        f"{_HTTP}test_a_body_above_the_cap_is_refused_after_decompression",
        f"{_HTTP}test_headers_that_never_end_are_cut_off",
        f"{_HTTP}test_what_goes_on_beside_a_body_is_broken_off_long_before_the_deadline")),
    # ------------------------------------------------------------------ SCIM, as far as the client goes
    "7644-7.2": Row("RFC 7644 section 7.2", "plain http to a service provider", "refused", (
        f"{_ADDRESSES}test_plain_http_is_let_through_to_named_loopback_only",)),
    "7644-7.4": Row("RFC 7644 sections 7.3, 7.4 and 7.6", "cookie, nobody, a token for something else", "401 or 403", (
        f"{_SCIM}test_nobody_gets_in_without_a_token_for_scim", *_KINDS)),
    "C01": Row("CVE-2025-41115", "externalId that looks like an id of ours", "a new id; it names nothing here", (
        f"{_SCIM}test_external_id_is_each_senders_own",)),
    "C02": Row("CVE-2026-92539", "people of another company, every verb, bulk, search", "404", (
        f"{_SCIM}test_people_of_another_company_do_not_exist",
        "tests/api/test_scim_events.py::test_receiver_never_hears_of_people_outside_its_company",
        "tests/api/test_scim_events.py::test_stream_is_its_own_tokens_alone",
        "tests/api/test_scim_events.py::test_acknowledging_what_is_anothers_takes_nothing_away",
        "tests/api/test_scim_jobs.py::test_job_is_its_senders_alone",
        "tests/api/test_scim_jobs.py::test_company_limit_and_terms_hold_when_an_operation_is_done",
        "tests/api/test_scim_terms.py::test_type_that_is_not_the_tokens_does_not_exist_for_it",
        "tests/api/test_scim_narrow.py::test_cursor_tells_nothing_of_the_place_where_it_stands",
        "tests/api/test_scim_narrow.py::test_cursor_is_of_one_list_of_one_sender",
        "tests/api/test_scim_narrow.py::test_user_shows_no_group_that_the_sender_may_not_see",
        "tests/api/test_scim_narrow.py::test_me_of_a_person_of_another_company_does_not_exist")),
    "C04": Row("CVE-2022-1680", "somebody who is there is taken over by name or mail", "409", (
        f"{_SCIM}test_nobody_is_taken_over_by_name_or_mail",
        "tests/api/test_scim_extensions.py::test_unique_value_belongs_to_one_until_it_is_given_up")),
    "C05": Row("CVE-2025-4210", "every address without token, with another one, without the scope", "401 or 403", (
        f"{_SCIM}test_nobody_gets_in_without_a_token_for_scim", f"{_SCIM}test_reading_token_changes_nothing",
        "tests/api/test_scim_jobs.py::test_token_that_ends_meanwhile_does_nothing_more",
        "tests/api/test_scim_bulk.py::test_token_that_ends_within_a_load_does_nothing_more",
        "tests/api/test_scim_push.py::test_nothing_is_sent_while_no_token_of_the_stream_works",
        "tests/api/test_scim_jobs.py::test_reading_token_asks_for_nothing",
        "tests/api/test_scim_narrow.py::test_reading_token_of_the_same_name_cancels_no_load",
        "tests/api/test_scim_terms.py::test_terms_that_are_not_understood_close_the_door")),
    "C07": Row("RFC 7644 section 3.4.2.2", "filters on secrets, deep, odd", "invalidFilter", (
        f"{_SCIM_SERVER}test_query_that_cannot_be_met",
        "tests/api/test_scim_siblings.py::test_filter_that_asks_for_too_much_is_refused_at_every_address")),
    "C08": Row("RFC 7644 section 7.5.2", "values of filters in logs and events", "absent", (
        f"{_SCIM}test_values_of_a_filter_reach_no_log",)),
    "C09": Row("RFC 7643 section 7", "id, meta, groups changed; secrets asked for", "mutability; absent", (
        "tests/scim/test_patch.py::test_refused_operation_changes_nothing",
        "tests/api/test_scim_terms.py::test_what_is_not_readable_is_neither_shown_nor_compared_nor_sorted_by",
        "tests/api/test_scim_events.py::test_attributes_that_the_token_may_not_read_are_not_named",
        "tests/api/test_scim_terms.py::test_what_is_not_writable_stays",
        "tests/api/test_scim_narrow.py::test_me_is_of_the_types_and_attributes_of_the_token",
        "tests/api/test_scim_terms.py::test_patch_does_not_tell_what_may_neither_be_read_nor_written",
        "tests/api/test_scim_extensions.py::test_immutable_value_is_set_once")),
    "C10": Row("RFC 7644 section 3.5.2", "every odd PATCH", "as the RFC says, or 400; all or nothing", (
        "tests/scim/test_patch.py::test_operation",
        "tests/scim/test_patch.py::test_refused_operation_changes_nothing",
        "tests/api/test_scim_patch_proof.py::test_patches_come_to_what_a_put_of_their_result_comes_to")),
    "C11": Row("RFC 7644 section 3.7", "circles, too many operations, too large, failOnErrors", "413, 409", (
        f"{_SCIM_SERVER}test_bulk_in_a_circle_is_told_and_half_of_it_is_not_made",
        f"{_SCIM_SERVER}test_bulk_that_cannot_be_read", f"{_SCIM}test_large_body_is_refused_unread",
        f"{_SCIM_SERVER}test_bulk_stops_after_as_many_errors_as_it_may_have",
        "tests/api/test_scim_jobs.py::test_limits_are_said_and_kept",
        "tests/api/test_scim_jobs.py::test_job_goes_on_after_a_crash_and_does_nothing_twice",
        "tests/api/test_scim_terms.py::test_calls_beyond_the_rate_wait_and_bulk_operations_weigh")),
    "C13": Row("RFC 7644 section 3.14", "a stale version", "412", (
        f"{_SCIM}test_two_changes_at_once_meet_the_version",
        "tests/api/test_scim_siblings.py::test_stale_version_changes_nothing_by_whichever_verb",
        "tests/api/test_scim_siblings.py::test_members_who_are_added_at_once_are_all_there")),
    "C16": Row("RFC 7644 section 7.8", "names that look the same", "409", (
        f"{_SCIM}test_name_that_looks_the_same_is_taken",
        "tests/api/test_scim_siblings.py::test_name_that_looks_the_same_is_taken_by_whichever_verb",
        "tests/api/test_scim_siblings.py::test_two_of_a_load_who_look_the_same_are_one")),
    "O08": Row("GHSA-rjg6", "SCIM DELETE leaves sessions", "every credential is dead", (
        f"{_DOORS}test_every_door_that_ends_an_employment_ends_every_credential",
        "tests/api/test_scim_terms.py::test_word_ends_as_the_terms_say")),
    "C18": Row("outbound secrets", "token in addresses, errors, logs", "never there", (
        "tests/scim/test_client.py::test_error_carries_the_other_sides_words_and_no_secret",)),
    "FUZZ": Row("every endpoint from its description", "schemathesis over API, OAuth endpoints, pages", "no fault", (
        f"{_FUZZ}test_the_api", f"{_FUZZ}test_the_oauth_endpoints", f"{_FUZZ}test_the_pages",
        f"{_FUZZ}test_every_route_is_in_one_of_the_documents")),
}  # fmt: skip

ABSENT: dict[str, Absent] = {
    "A13": Absent("audience of private_key_jwt", "clients prove themselves by secret", ("private_key_jwt",)),
    "A20": Absent("token exchange", "no such grant", ("token-exchange",)),
    "A21": Absent("policies per provider at token exchange", "no upstream sign-in", ("token-exchange",)),
    "A27": Absent("PAR", "no such endpoint", ("/par",)),
    "A30": Absent("dynamic registration", "clients are configuration", ("/register",)),
    "A34": Absent("discovery of an upstream provider", "no upstream sign-in", ("/login/upstream", "/callback")),
    "A36": Absent("logout tokens of an upstream provider", "no upstream sign-in", ("/backchannel",)),
    "A37": Absent("device grant", "no such grant", ("/device", "device_code")),
    "J10": Absent("PBES2 and other JWE", "nothing is encrypted by JOSE", ("id_token_encryption",)),
    "J12": Absent("fetching a JWKS", "no key of others is read", ("jwks_uri_of_client",)),
    "J17": Absent("JWTs of an upstream provider", "no upstream sign-in", ("/callback",)),
    "J21": Absent("DPoP", "tokens are bearer tokens", ("dpop",)),
    "J24": Absent("keys in client registrations", "clients have no keys", ("private_key_jwt",)),
    "L01-L12": Absent("LDAP", "not there yet", ("/ldap",)),
    "M02-M13": Absent("second factors", "passwords only", ("/mfa", "/passkey", "/webauthn", "/totp")),
    "T14": Absent("uploads of images", "none are taken", ("/avatar", "/logos", "/upload")),
    "T17": Absent("session management by postMessage", "not supported", ("/session/iframe", "check_session")),
    "B10": Absent("mail flood by resets", "the hub sends no mail; colleagues make links", ("/forgot", "/reset")),
    "X01": Absent("formula injection", "no download is a spreadsheet", (".csv", ".xlsx", "/export.csv")),
    "FAPI": Absent("FAPI 2.0", "not offered", ("/par",)),
    "SSF": Absent("SSF, CAEP, RISC", "not there yet", ("/ssf", "ssf-configuration")),
}
