"""The texts that the golden scores are of, and how a golden file is written."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from pathlib import Path
from typing import Any

_BOILER = (
    "A condensing boiler takes heat out of the water vapour in its flue gas, which an older boiler lets escape. "
    "It can do so only while the water that comes back from the radiators is cooler than about 55 degrees. "
    "Whoever sets the flow temperature to 75 degrees on a mild day therefore pays for heat that leaves by the chimney. "
)
_LEASE = (
    "The tenant shall keep the interior in good repair, fair wear and tear excepted, and shall tell the landlord in "
    "writing of any defect in the roof, the drains or the outer walls within fourteen days of noticing it. "
)
_LONG_QUERY = (
    "I moved into a flat from the nineteen-thirties last month, and since the first cold week the bathroom wall that "
    "faces north has had dark spots near the ceiling that come back a few days after I wash them off with vinegar; the "
    "window is new and closes tightly, there is no fan, two people shower every morning, and the landlord says that I "
    "should just open the window more often: is this mould, is it dangerous, and who has to pay for getting rid of it?"
)

QUERIES = [
    "How do I stop a condensing boiler from wasting gas?",
    "capital of australia",
    "why does bread rise",
    _LONG_QUERY,
]

# Ragged on purpose: nothing, only punctuation, accents and signs that the vocabulary lacks, longer than any limit.
DOCUMENTS = [
    "Canberra was chosen as the seat of government in 1908, as neither Sydney nor Melbourne would yield to the other.",
    "",
    "?! ... -- ;;; (*) [&] #",
    _BOILER * 6,
    "Yeast feeds on the sugars in flour and gives off carbon dioxide. The gluten holds the gas in, so the dough grows.",
    "Ein naïver Besucher im Café fragte: „Wo ist die Hauptstadt?“ – 東京 🙂 Ω≈3.14",
    "Bread.",
    "Black spots on a cold outer wall are mostly mould. Wipe them with alcohol, heat the room evenly, and air it for "
    "five minutes after each shower; if the wall itself is damp, the repair is the landlord's.",
]

PAIRS = [
    ("what is the capital of france", "Paris is the capital and the largest city of France."),
    ("what is the capital of france", "France has about 68 million inhabitants."),
    ("what is the capital of france", "Bananas are rich in potassium."),
    ("capital of australia", DOCUMENTS[0]),
    ("capital of australia", "Sydney is the largest city of Australia, but not its capital."),
    ("capital of australia", "Capital letters begin a sentence in English."),
    ("why does bread rise", DOCUMENTS[4]),
    ("why does bread rise", "Bread."),
    ("why does bread rise", "Prices rise when demand outruns supply."),
    (
        "how do vaccines work",
        "A vaccine shows the immune system a harmless part of a germ, so that it knows the real one.",
    ),
    ("how do vaccines work", "The vaccine was approved in March and sold in 40 countries by the end of the year."),
    ("python read file line by line", "for line in open('notes.txt', encoding='utf-8'): print(line.rstrip())"),
    ("python read file line by line", "The reticulated python swallows its prey whole."),
    ("python read file line by line", "Use csv.reader if every line holds fields separated by commas."),
    (
        "symptoms of anaemia",
        "Tiredness, pale skin and shortness of breath are common; a blood count settles the matter.",
    ),
    (
        "symptoms of anemia",
        "Tiredness, pale skin and shortness of breath are common; a blood count settles the matter.",
    ),
    ("symptoms of anaemia", "Anaemia"),
    (
        "best time to plant tomatoes",
        "Set tomatoes out once the nights stay above ten degrees, which is mid-May in most valleys.",
    ),
    ("best time to plant tomatoes", "Tomatoes: 1.99 a pound. Peppers: 2.49 a pound. Basil: 0.99 a bunch."),
    (QUERIES[0], _BOILER),
    (QUERIES[0], "The boiler room is on the left behind the stairs."),
    (_LONG_QUERY, DOCUMENTS[7]),
    (_LONG_QUERY, "Mould."),
    (_LONG_QUERY, _LEASE),
    ("what is the capital of france", ""),
    ("", "Paris is the capital and the largest city of France."),
    ("", ""),
    ("what is the capital of france", DOCUMENTS[2]),
    ("?!?", "Why does it ask so many questions?"),
    ("...", "..."),
    ("café à paris", "Le café de la place ouvre à sept heures; on y sert aussi du thé."),
    ("hauptstadt von japan", DOCUMENTS[5]),
    ("東京", "東京 is the capital of Japan."),
    ("emoji 🙂", "🙂🙂🙂 🙃"),
    ("naïve", "naive"),
    ("what is the capital of france", "what is the capital of france"),
    ("bread bread bread", "bread bread bread bread bread bread bread bread bread bread bread bread bread bread bread"),
    ("what is the capital of france", "Paris is the capital and the largest city of France."),
    ("what   is the\tcapital of\nfrance", "  Paris is the capital   and the largest city of France.\n"),
    ("who may end a lease early", _LEASE * 6),
    ("supercalifragilisticexpialidocious antidisestablishmentarianism", "Long words are split into many pieces."),
]

# Text that spells special tokens: tokenizers take it for them unless they are told not to.
SPECIAL_PAIRS = [("[SEP] or [CLS]?", "What does BERT put between two texts? A [SEP]arator.")]

# More than 512 tokens together. How much of which text is cut is what an implementation must say.
LONG_PAIRS = [
    ("what flow temperature suits a condensing boiler", _BOILER * 20),
    ("who may end a lease early", _LEASE * 30),
    (_LONG_QUERY, DOCUMENTS[7] + " " + _LEASE * 20),
    (QUERIES[0], _LEASE * 20 + _BOILER),
]


def write(file: Path, packages: list[str], golden: dict[str, Any]) -> None:
    """A golden file: when it was made and with what, then its content, innermost lists on one line."""
    made = {
        "date": datetime.date.today().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    file.write_text(_lines(made | golden) + "\n", "utf-8")
    print(f"{file.name}: {file.stat().st_size:,} bytes")


def rounded(values: Any, digits: int = 6) -> Any:
    """Numbers, or lists of lists of them, with as many digits as are worth keeping."""
    return [rounded(value, digits) for value in values] if isinstance(values, list) else round(values, digits)


def _lines(value: Any, indent: str = "") -> str:
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
