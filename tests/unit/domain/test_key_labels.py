"""Labels of keys in a token: what one is, and which version comes after which."""

from __future__ import annotations

import pytest

from ownkey_server.domain.key_labels import KeyLabel, LabelInvalid, pending, pending_for, versions_of


@pytest.mark.parametrize("text", ["a", "acme-main", "acme.main_2/v1", "A" * 100 + "/v999999", "7"])
def test_a_label_is_what_it_was_read_from(text: str) -> None:
    assert str(KeyLabel.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "a/v0", "a/v01", "a/b", "/v1", "a/v1/v2", "~a", "-a", "a-", "A" * 101, "ä", "a/v1000000", "a\n", "a /v1"],
)
def test_what_nobody_could_name_again_is_none(text: str) -> None:
    with pytest.raises(LabelInvalid, match="letters"):
        KeyLabel.parse(text)


def test_versions_go_by_number_and_none_is_the_oldest() -> None:
    labels = ["a/v10", "b/v3", "a", "a/v9", "a/v9", "another/v1", "~pending~a/v11", "a/x"]
    assert [str(each) for each in versions_of("a", labels)] == ["a", "a/v9", "a/v10"]
    assert versions_of("c", labels) == []


def test_versions_end() -> None:
    assert str(KeyLabel("a", 999_998).with_version(999_999)) == "a/v999999"
    with pytest.raises(LabelInvalid, match="at most 999999"):
        KeyLabel("a", 999_999).with_version(1_000_000)


def test_a_pending_key_has_a_label_that_no_key_can_have() -> None:
    assert pending_for(pending("a/v1")) == "a/v1"
    assert pending_for("a/v1") == ""
    with pytest.raises(LabelInvalid):
        KeyLabel.parse(pending("a/v1"))
