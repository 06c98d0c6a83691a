"""Any text can be written in UTF-8 once its surrogates are joined, and text without them is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from skippy.core.surrogates import join_surrogates


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_can_be_written(text: str) -> None:
    joined = join_surrogates(text)
    assert joined.encode("utf-8").decode("utf-8") == joined
    assert join_surrogates(joined) == joined


@given(st.text())
def test_text_without_surrogates_is_left_alone(text: str) -> None:
    assert join_surrogates(text) == text


def test_a_pair_is_its_character_and_a_half_is_replaced() -> None:
    assert join_surrogates("\ud83d\ude00 \ud83d!") == "\U0001f600 \ufffd!"
