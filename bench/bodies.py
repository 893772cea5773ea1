"""Bodies of any size as Skyvern sends them: a captured one, whose output is grown to a list of items.

They compress about as well as real ones: each item has the same keys, ids of its own, and a text of made-up words that
are as rare as words are (Zipf's law); Skyvern sends an output twice, as `output` and as `extracted_information`.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

from tests.support.run_ids import run_id

CAPTURE = Path(__file__).resolve().parent.parent / "tests/support/data/captures/task_v1_completed.json"
_SYLLABLES = ["ba", "con", "de", "in", "lan", "mi", "number", "or", "port", "pro", "re", "ser", "sup", "to", "tract"]
_WORDS = 4000


def bodies(size: int, count: int) -> list[bytes]:
    """Return `count` different bodies of about `size` bytes, and no less than a capture has. The same at each call."""
    run = json.loads(CAPTURE.read_bytes())
    number = random.Random(size)
    words = ["".join(number.choices(_SYLLABLES, k=number.randint(1, 4))) for _ in range(_WORDS)]
    rarity = list(itertools.accumulate(1 / rank for rank in range(1, _WORDS + 1)))

    def text(length: int) -> str:
        return " ".join(number.choices(words, cum_weights=rarity, k=length))

    def item() -> dict[str, Any]:
        return {
            "name": text(4),
            "url": f"https://shop.example.com/p/{number.getrandbits(48):012x}",
            "sku": number.randrange(10**9),
            "price": round(number.uniform(1, 900), 2),
            "rating": number.randint(10, 50) / 10,
            "in_stock": number.random() < 0.8,
            "description": text(18),
        }

    made = []
    for index in range(count):
        name = run_id(index)
        body = run | {"run_id": name, "task_id": name}
        room = size - len(_dumps(body))
        items: list[dict[str, Any]] = []
        while True:
            items.append(item())
            room -= 2 * len(_dumps(items[-1])) + 2
            if room < 0:
                break
        if items[:-1]:
            body |= {"output": {"items": items[:-1]}, "extracted_information": {"items": items[:-1]}}
        made.append(_dumps(body))
    return made


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
