"""Words of runs and of searches: the same whatever case and form the text is in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.redaction import MASK
from receiver.domain.words import MAX_TERMS, MAX_TEXT, MAX_WORD, BadSearch, Term, document, parse_query, words_of

TEXT = st.text(st.characters(), max_size=40)
# What a run says, and what is searched for, with few words so that they meet.
WORD = st.sampled_from(["ab", "abc", "b", "ab-b", "AB", "abc b", "東京", "ß", "ss", "1.5", ""])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Login failed: HTTP 503!", "login failed http 503"),
        ("snake_case and kebab-case", "snake case and kebab case"),
        ("2026-11-25T10:00", "2026 11 25t10 00"),
        ("STRASSE Straße", "strasse strasse"),
        ("caf\u00e9 cafe\u0301 ＣＡＦÉ", "café café café"),
        ("ﬁn ① ½", "fin 1 1 2"),
        ("हिन्दी में", "हिन्दी में"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("価格 1500円", "価 格 1500 円"),
        ("서울 타워", "서울 타워"),
        ("half \ud800 a\x00b", "half a b"),
        ("… — !?", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert words_of(text) == words.split()


def test_of_a_long_word_only_the_beginning_counts() -> None:
    assert words_of("x" * 1000) == ["x" * MAX_WORD]
    assert words_of("ü" * 1000) == ["ü" * MAX_WORD]


@given(TEXT)
def test_words_of_words_are_the_same_words(text: str) -> None:
    found = words_of(text)
    assert words_of(" ".join(found)) == found
    assert all(word.isprintable() and "%" not in word and "_" not in word for word in found)


@given(TEXT)
def test_case_makes_no_difference(text: str) -> None:
    assert words_of(text.casefold()) == words_of(text)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("timeout", [["timeout*"]]),
        ("login timeout", [["login"], ["timeout*"]]),
        ("inv* timeout", [["inv*"], ["timeout*"]]),
        ('"login timeout"', [["login", "timeout"]]),
        ('"login tim"* now', [["login", "tim*"], ["now*"]]),
        ('"login tim', [["login", "tim*"]]),
        ('timeout "now"', [["timeout"], ["now"]]),
        ("http-503 page", [["http", "503"], ["page*"]]),
        ("a.b@example.org", [["a", "b", "example", "org*"]]),
        ("東京", [["東", "京*"]]),
        ("same same", [["same"], ["same*"]]),
        ("-- timeout", [["timeout*"]]),
    ],
)
def test_a_search(text: str, phrases: list[list[str]]) -> None:
    wanted = tuple(tuple(Term(word.rstrip("*"), word.endswith("*")) for word in phrase) for phrase in phrases)
    assert parse_query(text).phrases == wanted


@pytest.mark.parametrize("text", ["", " ", "--", '""', "*", '"'])
def test_a_search_for_nothing_says_what_would_be_right(text: str) -> None:
    with pytest.raises(BadSearch, match="write words, such as"):
        parse_query(text)


def test_a_search_for_too_much_says_what_is_the_most() -> None:
    parse_query(" ".join(f"w{n}" for n in range(MAX_TERMS)))
    with pytest.raises(BadSearch, match=f"{MAX_TERMS + 1} words, and {MAX_TERMS} are the most"):
        parse_query(" ".join(f"w{n}" for n in range(MAX_TERMS + 1)))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, ""),
        ("done", "done"),
        (["a", {"name": "b"}, [["c"]]], "a b c"),
        ([{"name": "a", "n": 1}, {"name": "b", "n": 1}, {"name": "a", "n": 1.0}], "a 1 b 1 0"),
        ([{"name": "a"}, {"url": "b"}, {"recording_url": "c"}], "a b"),
        ({"total": 1500.5, "count": 3, "paid": True, "none": None}, "1500 5 3"),
        ({"secret": MASK, "list": [MASK]}, ""),
        ({"recording_url": "https://x/r", "screenshot_urls": ["https://x/s"], "url": "https://kept"}, "https kept"),
        ({"downloaded_files": [{"url": "https://x", "filename": "bill.pdf", "modified_at": "now"}]}, "bill pdf"),
        ({"downloaded_files": "no list"}, "no list"),
        ({"n": 10**5000}, ""),
    ],
)
def test_of_the_output_values_count_and_names_do_not(output: Any, words: str) -> None:
    assert document(None, None, output).split() == words.split()


def test_a_deep_output_is_read_to_the_bottom() -> None:
    output: Any = "bottom"
    for _ in range(100_000):
        output = [output]
    assert document(None, None, output) == " bottom "


def test_a_text_among_many_that_say_nothing_is_found() -> None:
    assert document(None, None, [*[None] * 10_000, "text"]) == " text "
    assert document(None, None, {"members": [*[{"n": None}] * 10_000, {"n": "text"}]}) == " text "


def test_only_so_much_of_a_run_is_looked_at() -> None:
    found = document("title", None, [f"{n:010}" for n in range(MAX_TEXT)] + ["end"])
    assert len(found) < 2 * MAX_TEXT
    assert "title" in found
    assert "end" not in found


def test_of_a_few_long_texts_only_so_much_is_looked_at() -> None:
    found = document("title", None, ["x " * MAX_TEXT, "end"])
    assert MAX_TEXT - 100 < len(found) < MAX_TEXT + 100
    assert "end" not in found


@given(st.none() | TEXT, st.lists(TEXT | st.text("aB") | st.just("xX" * MAX_WORD + " y\0z"), max_size=5))
def test_each_value_with_words_is_a_line_of_them(title: str | None, output: list[str]) -> None:
    values = dict.fromkeys((title or "", *output))
    lines = [f" {' '.join(words)} " for value in values if (words := words_of(value))]
    assert document(title, None, output) == "\n".join(lines)


@given(
    st.none() | WORD,
    st.lists(WORD, max_size=4),
    st.lists(st.tuples(WORD, st.sampled_from(["", "*"]), st.booleans()), max_size=3),
)
def test_a_run_is_found_by_what_it_says(
    title: str | None, output: list[str], searched: list[tuple[str, str, bool]]
) -> None:
    text = " ".join(f'"{word}"{star}' if quoted else word + star for word, star, quoted in searched)
    try:
        query = parse_query(text)
    except BadSearch:
        return
    values = [words_of(value) for value in (title or "", *output)]
    assert query.matches(document(title, None, output)) == all(
        any(stands_in(phrase, words) for words in values) for phrase in query.phrases
    )
    if query.matches(document(title, None, output)):
        assert all(
            any(word.startswith(term.word) if term.prefix else word == term.word for word in said)
            for term in query.terms
            for said in [set(document(title, None, output).split())]
        )


def stands_in(phrase: tuple[Term, ...], words: list[str]) -> bool:
    """Whether the words of the phrase stand side by side, looked at word by word."""
    places = range(len(words) - len(phrase) + 1)
    return any(
        all(
            words[at + n].startswith(term.word) if term.prefix else words[at + n] == term.word
            for n, term in enumerate(phrase)
        )
        for at in places
    )
