"""How prompts are shown: each token in the colour of its role, or between markers where there is no colour."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rerankkit.protocols import Role

STYLES = {  # two shades each, so that the boundary of every token is seen
    "fixed": ("#d0d0d0 on #303030", "#d0d0d0 on #444444"),
    "query": ("#ffffff on #005f73", "#ffffff on #0a7d94"),
    "document": ("#ffffff on #1e5631", "#ffffff on #2f7d4a"),
    "control": ("bold #ffffff on #7b2d8b", "bold #ffffff on #9a45ab"),
    "answer": ("bold #000000 on #ffd166", "bold #000000 on #ffd166"),
}
_SYMBOLS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token; where several make up one character, the first has its text and the others have none.

    Args:
        control: Whether it is one of the tokenizer's own, such as `<|im_start|>`, which only a template may write.
    """

    id: int
    text: str
    role: Role
    control: bool


@dataclass(slots=True)
class Shown:
    """One prompt as the model reads it.

    Args:
        documents: Which documents of the group it shows.
        counts: How many tokens it has of each role.
        shared: How many leading tokens the group's prompts share and are computed once.
        answer: Position of the token whose hidden state gives the score, or behind which the model writes; None where
            tokens are compared or their likelihood is asked.
        scored: Positions of the tokens whose likelihood is asked.
        written: Whether the model writes its answer.
        tokens: Its tokens; None where the prompt is only summarised.
    """

    documents: list[int]
    labels: list[float] | None
    counts: dict[str, int]
    shared: int
    cut_query: int
    cut_document: int
    answer: int | None
    tokens: list[Token] | None
    scored: list[int] = field(default_factory=list)
    written: bool = False

    @property
    def length(self) -> int:
        return sum(self.counts.values())


@dataclass(slots=True)
class Example:
    """One group's prompts.

    Args:
        kind: "training" or "inference".
        number: Which one, counted from 0.
        source: Where the group is from.
        shares_prefix: Whether the model could go on from a shared beginning.
    """

    kind: str
    number: int
    source: str
    qid: str
    query: str
    documents: int
    shares_prefix: bool
    prompts: list[Shown]


@dataclass(slots=True)
class Figures:
    """What the prompts of a sample are like.

    Args:
        lengths: Tokens of a prompt, at some percentiles.
        documents_cut: Share of the prompts whose document was cut.
        queries_cut: Share of the prompts whose query was cut.
        shared: Mean tokens that a prompt shares with others of its group.
        step_groups: Groups in one optimizer step of one process.
        step_tokens: Mean real tokens computed in such a step, shared ones once.
        step_padding: Mean padding tokens computed besides.
    """

    kind: str
    prompts: int
    lengths: dict[str, int]
    documents_cut: float
    queries_cut: float
    shared: float
    step_groups: int | None = None
    step_tokens: float | None = None
    step_padding: float | None = None


@dataclass(slots=True)
class Preview:
    """All that is to be seen of a recipe's prompts; rich prints it, without colour where there is none.

    Args:
        missing: What could not be shown, and why.
    """

    recipe: str
    collator: str
    head: str
    examples: list[Example] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        colour = console.is_terminal and console.color_system is not None and not console.no_color
        yield from _screen(self, colour)


def _screen(preview: Preview, colour: bool) -> Iterator[RenderableType]:
    for name, said in (("recipe", preview.recipe), ("collator", preview.collator), ("head", preview.head)):
        yield Text(f"{name:10}{visible(said)}")
    yield _legend(colour)
    for example in preview.examples:
        yield Rule(Text(f"{example.kind} example {example.number}: {visible(example.source)}"), align="left")
        yield Text(f"query  {visible(example.query)}")
        yield Text(_sharing(example), style="bold")
        in_full = [shown for shown in example.prompts if shown.tokens is not None]
        for shown in in_full:
            yield Text(f"\n{_heading(shown, example)}", style="bold")
            yield _coloured(shown) if colour else _marked(shown)
            yield Text(_answer(shown, preview.head), style="italic")
        if rest := example.prompts[len(in_full) :]:
            yield Text(f"\n{_summary(rest)}")
    if preview.figures:
        yield Rule(Text("figures"), align="left")
        yield _table(preview.figures)
        yield from (Text(_step(figures)) for figures in preview.figures if figures.step_tokens is not None)
    yield from (Text(missing, style="yellow") for missing in preview.missing)


def visible(text: str) -> str:
    """A text in which no character acts on the terminal or stays unseen."""
    return "".join(_SYMBOLS.get(character) or _escaped(character) for character in text)


def _escaped(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cc" and ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    unseen = kind[0] == "C" or kind in ("Zl", "Zp") or (kind == "Zs" and character != " ")
    return f"\\u{{{ord(character):x}}}" if unseen else character


def _broken(text: str) -> str:
    """A visible text with a new line after each run of new lines, so that a prompt keeps its layout."""
    return re.sub("⏎+", lambda run: f"{run[0]}\n", text)


def _legend(colour: bool) -> Text:
    if not colour:
        return Text(
            "markers   ⟦role|…⟧  a·b two tokens  ⟨control token⟩  «shared prefix»  ▶token whose "
            "state is the answer, or whose likelihood is asked◀"
        )
    parts = [(f" {name} ", STYLES[name][0]) for name in ("fixed", "query", "document", "control", "answer")]
    return Text.assemble("legend    ", *parts, "  ", ("shared prefix", "underline"), "  two shades: one token each")


def _coloured(shown: Shown) -> Text:
    text = Text(overflow="fold")
    for i, token in enumerate(shown.tokens or ()):
        kind = "answer" if i == shown.answer or i in shown.scored else "control" if token.control else token.role
        underline = " underline" if i < shown.shared else ""
        text.append(_broken(visible(token.text)), STYLES[kind][i % 2] + underline)
    return text


def _marked(shown: Shown) -> Text:
    text, role = "", None
    tokens = shown.tokens or []
    for i, token in enumerate(tokens):
        if token.role != role:
            text += f"⟦{token.role}|" if role is None else f"⟧⟦{token.role}|"
        elif i:
            text += "·"
        role = token.role
        piece = _broken(visible(token.text))
        piece = f"⟨{piece}⟩" if token.control else piece
        piece = f"▶{piece}◀" if i == shown.answer or i in shown.scored else piece
        text += "«" * (i == 0 < shown.shared) + piece + "»" * (i + 1 == shown.shared)
    return Text(text + "⟧", overflow="fold")


def _heading(shown: Shown, example: Example) -> str:
    """Which documents a prompt shows, how long it is, and what was left out of it."""
    which = ", ".join(str(position + 1) for position in shown.documents)
    said = f"document{'s' * (len(shown.documents) > 1)} {which} of {example.documents}"
    if shown.labels is not None:
        said += f", label{'s' * (len(shown.labels) > 1)} {', '.join(f'{label:g}' for label in shown.labels)}"
    counts = ", ".join(f"{count} {role}" for role, count in shown.counts.items())
    said += f": {shown.length} tokens ({counts})"
    for role, cut in (("query", shown.cut_query), ("document", shown.cut_document)):
        if cut:
            said += f"; {role} cut: {cut} of {shown.counts[role] + cut} tokens left out"
    return said


def _sharing(example: Example) -> str:
    shared = sorted({shown.shared for shown in example.prompts})
    opened = {tuple(token.id for token in shown.tokens[: shown.shared]) for shown in example.prompts if shown.tokens}
    if shared[-1] and len(opened) > 1:
        return "nothing is shared: each prompt has an encoder's part, which comes first, of its own"
    if shared[-1]:
        return f"the first {shared[-1]} tokens are shared by the group's prompts and computed once"
    if len(example.prompts) < 2:
        return "nothing is shared: the group has a single prompt"
    if not example.shares_prefix:
        return "nothing is shared: the backbone computes every prompt whole"
    return "nothing is shared: the group's prompts begin with too few tokens in common"


def _answer(shown: Shown, head: str) -> str:
    if shown.scored:
        return f"log-likelihood of the {len(shown.scored)} marked tokens of {shown.length}, by {head.split(' ')[0]}"
    if shown.written:
        return f"the model writes its answer behind token {shown.length}, read by {head.split(' ')[0]}"
    if shown.answer is None:
        return f"query and document are read apart and compared token by token, by {head.split(' ')[0]}"
    text = visible(shown.tokens[shown.answer].text) if shown.tokens else ""
    return f"score read at token {shown.answer + 1} of {shown.length}, '{text}', by {head.split(' ')[0]}"


def _summary(rest: Sequence[Shown]) -> str:
    """One line on the prompts that are not shown."""
    lengths = [shown.length for shown in rest]
    span = " to ".join(str(length) for length in sorted({min(lengths), max(lengths)}))
    said = f"and {len(rest)} more prompt{'s' * (len(rest) > 1)}: {span} tokens"
    labels = Counter(label for shown in rest for label in shown.labels or ())
    if labels:
        said += "; labels " + ", ".join(f"{label:g} ({count}x)" for label, count in sorted(labels.items()))
    cut = sum(shown.cut_query > 0 or shown.cut_document > 0 for shown in rest)
    return f"{said}; {cut} cut"


def _table(figures: Sequence[Figures]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", *(row.kind for row in figures)):
        table.add_column(Text(name), justify="right" if name else "left")
    lengths = [(f"tokens, {name}", [str(row.lengths[name]) for row in figures]) for name in figures[0].lengths]
    for name, values in [
        ("prompts", [str(row.prompts) for row in figures]),
        *lengths,
        ("documents cut", [f"{row.documents_cut:.0%}" for row in figures]),
        ("queries cut", [f"{row.queries_cut:.0%}" for row in figures]),
        ("mean shared tokens", [f"{row.shared:.1f}" for row in figures]),
    ]:
        table.add_row(*map(Text, (name, *values)))
    return table


def _step(figures: Figures) -> str:
    return (
        f"a training step of {figures.step_groups} groups computes about {figures.step_tokens:.0f} tokens "
        f"and {figures.step_padding:.0f} of padding, in each process"
    )
