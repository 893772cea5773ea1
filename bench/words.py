"""Generated documents of runs, in the form that the clock indexes, and typical searches.

A document has 54 words on average: fifty drawn by Zipf's law from 50,000, and four unique to the run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator


def vocabulary() -> list[str]:
    """Return the words, the most common one first."""
    chance = random.Random(7)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < 50_000:
        found["".join(chance.choices(syllables, k=chance.choice([2, 2, 3, 3, 4])))] = None
    return list(found)


def documents(count: int) -> Iterator[str]:
    """Yield the documents of `count` runs, as stored in `run_texts.document`."""
    chance, known = random.Random(1), vocabulary()
    weights = list(itertools.accumulate(1 / (place + 1) for place in range(len(known))))
    for _ in range(count):
        some = chance.choices(known, cum_weights=weights, k=chance.randint(20, 80))
        rare = (f"x{chance.randrange(10**9)}" for _ in range(4))
        yield f" {' '.join(some[:10])} \n {' '.join([*some[10:], *rare])} "


def searches() -> dict[str, str]:
    """Return search texts by description. A trailing space marks the last word as complete."""
    known = vocabulary()
    often, common, seldom, rare = known[1], known[20], known[300], known[30_000]
    return {
        "a common word": f"{often} ",
        "the beginning of a common word": often,
        "two letters": often[:2],
        "a word of 1.4 % of the runs": seldom,
        "a rare word": rare,
        "a word that no run has": "qqqq",
        "two words that few runs share": f"{known[3000]} {known[3001]}",
        "a rare word, and the beginning of a common one": f"{rare} {often}",
        "two words, the last a beginning": f"{known[3000]} {known[100]}",
        "four words": " ".join(known[200:204]),
        "four common words": " ".join(known[50:54]),
        "six very common words": " ".join(known[20:26]),
        "a phrase": f'"{common} {seldom}"',
        "a phrase of two common words": f'"{known[30]} {known[31]}"',
    }
