"""Objects with duplicate members."""

import json

import pytest

from revoker.json_members import DuplicateMember, unique_members


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"a": 1, "\\u0061": 2}', '[{"b": {"a": 1, "a": 2}}]'])
def test_a_duplicate_member_is_refused_at_any_depth_and_however_it_is_escaped(text):
    with pytest.raises(DuplicateMember):
        json.loads(text, object_pairs_hook=unique_members)


def test_members_of_different_objects_may_have_the_same_name():
    text = '{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}'

    assert json.loads(text, object_pairs_hook=unique_members) == json.loads(text)
