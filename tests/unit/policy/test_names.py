"""Names and ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.errors import BadResourceNameError
from pileus.policy import names

HOST_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
RESOURCE_NAMES = st.from_regex(r"[A-Za-z0-9_\- ]{0,24}[A-Za-z0-9][A-Za-z0-9_\- ]{0,24}", fullmatch=True).map(str.strip)


@pytest.mark.parametrize("name", ["a", "lab-1", "my lab_2", "UPPER", "7", "-x-", "x" * names.LONGEST_RESOURCE_NAME])
def test_allowed_names_are_given_back(name: str) -> None:
    assert names.check_resource_name(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        ("a/b", "disallowed characters: '/'"),
        ("läb", "disallowed characters"),
        ("lab٣", "disallowed characters"),  # a digit, but not an ASCII one
        ("a\n", "disallowed characters"),
        ("a.b", "disallowed characters"),
        ("x" * (names.LONGEST_RESOURCE_NAME + 1), "50 characters, more than 49"),
        (" lab", "space"),
        ("lab ", "space"),
        ("---", "neither a letter nor a digit"),
    ],
)
def test_other_names_are_refused_and_the_error_says_why(name: str, said: str) -> None:
    with pytest.raises(BadResourceNameError, match=re.escape(said)) as caught:
        names.check_resource_name(name)
    assert caught.value.setting == "resource_name"
    assert "1 to 49" in caught.value.hint
    assert str(caught.value).isascii()


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(BadResourceNameError, match="not int"):
        names.check_resource_name(7)  # type: ignore[arg-type]


@given(RESOURCE_NAMES)
def test_every_allowed_name_makes_a_valid_host_name(name: str) -> None:
    made = names.server_name(name, "0123456789ab")
    assert HOST_NAME.fullmatch(made)
    assert made.endswith("-0123456789ab")


@given(RESOURCE_NAMES, RESOURCE_NAMES)
def test_servers_of_two_deployments_never_share_a_name_even_with_equal_random_ends(one: str, other: str) -> None:
    same = names.server_name(one, "0123456789ab") == names.server_name(other, "0123456789ab")
    assert same == (one == other)


def test_a_name_that_is_a_host_name_is_kept_as_it_is() -> None:
    assert names.server_name("lab-1", "abcdefabcdef") == "lab-1-abcdefabcdef"


def test_names_that_become_equal_as_host_names_are_told_apart() -> None:
    made = {names.server_name(name, "abcdefabcdef") for name in ("my-lab", "my lab", "my_lab", "My-lab", "-my-lab")}
    assert len(made) == 5


def test_server_names_without_a_given_end_differ() -> None:
    assert len({names.server_name("lab") for _ in range(50)}) == 50


@pytest.mark.parametrize("end", ["short", "ABCDEFABCDEF", "abcdefabcde-", "abcdefabcdef1"])
def test_a_malformed_random_end_is_refused(end: str) -> None:
    with pytest.raises(ValueError, match="random12"):
        names.server_name("lab", end)


def test_ids_have_their_form_and_differ() -> None:
    for draw, form in ((names.deployment_id, "d-[0-9a-f]{16}"), (names.intent_id, "i-[0-9a-f]{16}")):
        drawn = {draw() for _ in range(50)}
        assert len(drawn) == 50
        assert all(re.fullmatch(form, one) for one in drawn)
