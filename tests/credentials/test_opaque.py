"""Opaque values: form, kind and checksum."""

import re
from typing import get_args

import pytest

from idhub.credentials import opaque
from idhub.credentials.opaque import Kind


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_value_has_its_prefix_and_is_recognised_as_its_kind_alone(kind: Kind) -> None:
    value = opaque.make(kind)
    assert re.fullmatch(rf"idh_{kind}_[A-Za-z0-9_-]{{48}}", value)
    assert [other for other in get_args(Kind) if opaque.looks_valid(other, value)] == [kind]


def test_values_never_repeat_and_their_hash_is_sha_256() -> None:
    values = {opaque.make("at") for _ in range(1_000)}
    assert len(values) == 1_000
    assert re.fullmatch("[0-9a-f]{64}", opaque.hash_of(values.pop()))


def test_one_wrong_character_is_noticed_without_asking_anybody() -> None:
    value = opaque.make("rt")
    for index in range(len("idh_rt_"), len(value)):
        flipped = "A" if value[index] != "A" else "B"
        assert not opaque.looks_valid("rt", value[:index] + flipped + value[index + 1 :])


@pytest.mark.parametrize("value", ["", "idh_rt_", "idh_rt_" + "é" * 48, "idh_rt_" + "=" * 48, "x" * 100_000, "\ud800"])
def test_garbage_is_not_valid_and_raises_nothing(value: str) -> None:
    assert not opaque.looks_valid("rt", value)
    assert len(opaque.hash_of(value)) == 64
