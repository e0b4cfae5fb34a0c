from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from revoker.api.bodies import form_fields
from revoker.errors import InvalidRequest

texts = st.text("ab=&;/-_.~!", max_size=40)


@given(texts | texts.map(lambda text: text + "&c=%41+b"))
@example("")
@example("&&a=1&")
@example("a")
@example("a==b")
@example("&".join(f"n{n}=1" for n in range(64)))
def test_a_form_is_read_alike_whether_it_needs_decoding_or_not(text):
    pairs = parse_qsl(text, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        with pytest.raises(InvalidRequest):
            form_fields(text.encode())
    else:
        assert form_fields(text.encode()) == {name: value for name, value in pairs if value}


@pytest.mark.parametrize("rest", ["", "+", "%20"])
def test_a_form_of_too_many_fields_is_refused(rest):
    with pytest.raises(InvalidRequest):
        form_fields(("&".join(f"n{n}=1" for n in range(65)) + rest).encode())


def test_a_form_is_ascii():
    with pytest.raises(InvalidRequest):
        form_fields("a=é".encode())
