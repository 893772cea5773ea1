"""How API keys are derived."""

from receiver.domain import api_key


def test_a_key_is_derived_from_the_master_and_its_id() -> None:
    key = api_key.derive("master", "0a1b")

    assert key == api_key.derive("master", "0a1b")
    assert key.startswith("rhk_0a1b_")
    assert (
        len({api_key.digest(each) for each in (key, api_key.derive("other", "0a1b"), api_key.derive("master", "0a1c"))})
        == 3
    )
    assert key.startswith(api_key.hint(key))
    assert len(api_key.hint(key)) < 20
