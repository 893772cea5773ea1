"""What is packed is unpacked as it was, whatever text and bytes it has."""

from __future__ import annotations

from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from receiver.ledger.deliveries.packed_claims import NewClaim, pack, unpack

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(0, 4e9)
claims = st.builds(
    NewClaim,
    *(*[texts] * 9, numbers, st.dictionaries(texts, texts, max_size=3), st.integers(1, 2**31), texts),
    st.binary(max_size=50),
)


@given(texts, numbers, st.lists(claims, min_size=1, max_size=4))
def test_what_is_packed_comes_out_as_it_was(sink: str, made_at: float, given_claims: list[NewClaim]) -> None:
    found = [asdict(each) for each in unpack(pack(sink, made_at, given_claims))]

    own = [{name: each[name] for name in NewClaim._fields} for each in found]
    assert own == [each._asdict() for each in given_claims]
    # And the rest is that of a delivery which nobody has tried
    common = {"sink": sink, "due_at": made_at, "created_at": made_at, "attempt_number": 1, "spent": 0, "probe": False}
    common |= {"after": (), "prefetched": True, "tried_at": None, "event_seq": 0}
    assert [each.keys() - NewClaim._fields for each in found] == [common.keys()] * len(found)
    assert [{name: each[name] for name in common} for each in found] == [common] * len(found)
