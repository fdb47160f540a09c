"""What a tokenizer's chat template writes around the turns of a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rerankkit.caches import per_tokenizer
from rerankkit.chat_markers import disarmed
from rerankkit.errors import InputError
from rerankkit.prompt_tokens import control_tokens
from rerankkit.protocols import Piece

Variables = Mapping[str, Any]
"""What a recipe gives a chat template beside the turns, by name."""
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
_ROLES = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",))
_CLOCK = "strftime_now"
"""What chat templates ask for the time by."""
_MOMENTS = ("one moment, as ", "another moment, as ")
"""What it answers here, before the format that it is asked for."""
_DATES = re.compile(r"(\w*(?:date|today)\w*)\s+is\s+(?:not\s+)?defined")
_TAKEN = (
    "messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize", "padding",
    "continue_final_message", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
    "return_assistant_tokens_mask",
)  # fmt: skip


def variable_problems(variables: Variables | None, chat: bool = True) -> Iterator[tuple[str, str]]:
    """Say what is wrong with the variables of a chat template without rendering it."""
    if variables and not chat:
        yield "chat_template_kwargs", "needs chat = true; a plain prompt has no chat template"
    for name in variables or ():
        if name in _TAKEN:
            yield "chat_template_kwargs", f"{name} is none of the template's own variables; leave it out"


def asked(
    pieces: list[Piece],
    chat: bool,
    system: str,
    answer_prefix: str,
    tokenizer: Any,
    part: str,
    variables: Variables | None = None,
) -> tuple[list[Piece], int | None]:
    """A question as a chat's turn or as plain text, the beginning of its answer behind it, and the position of that.

    Args:
        part: The formatter's name, for messages.
        variables: What the chat template is given beside the turns.
    """
    if chat:
        pieces = conversation([("user", pieces)], tokenizer, part, system, variables)
    return begun(pieces, answer_prefix)


def begun(pieces: list[Piece], answer_prefix: str) -> tuple[list[Piece], int | None]:
    """A prompt with the beginning of its answer behind it, and the position of that; None where there is none."""
    if not answer_prefix:
        return pieces, None
    return [*pieces, Piece(answer_prefix, "fixed")], len(pieces)


def conversation(
    turns: Sequence[tuple[str, Sequence[Piece]]],
    tokenizer: Any,
    part: str,
    system: str = "",
    variables: Variables | None = None,
) -> list[Piece]:
    """A chat with these turns, and the model's turn opened. No query or document writes what opens or closes one. The
    token that the tokenizer opens every text with, such as `<s>`, stands first, whether the template writes it or not.

    Args:
        turns: Who speaks, "user" or "assistant", and what.
        part: The formatter's name, for messages.
        system: The system turn; empty leaves the choice to the chat template.
        variables: What the chat template is given beside the turns.
    """
    before, *after = frame(tokenizer, tuple(role for role, _ in turns), system, part, variables)
    between = plain_text_between(tokenizer, variables)
    pieces = [Piece(_opening(tokenizer, before) + before, "fixed")]
    for (_, said), text in zip(turns, after, strict=True):
        pieces += [*disarmed(said, between), Piece(text, "fixed")]
    return [piece for piece in pieces if piece.text or piece.role != "fixed"]


def _opening(tokenizer: Any, before: str) -> str:
    """The tokens that the tokenizer opens every text with, where the template does not write them."""
    leading = control_tokens(tokenizer).leading
    opening = "".join(tokenizer.convert_ids_to_tokens(list(leading)))
    return "" if before.lstrip().startswith(opening) else opening


def plain_text_between(tokenizer: Any, variables: Variables | None = None) -> tuple[str, ...]:
    """What the chat template writes around turns besides control tokens. Of what comes before the first turn it is the
    last line: the others are a system turn that the template brings along."""
    return _plain_text_between(tokenizer, _stored(variables))


@per_tokenizer
def _plain_text_between(tokenizer: Any, variables: str) -> tuple[str, ...]:
    texts = []
    for roles in _ROLES:
        try:  # many templates refuse a system turn
            before, *after = _around(tokenizer, roles, "", "chat", json.loads(variables), _MOMENTS[0])
        except InputError:
            continue
        texts += [before.rstrip().rpartition("\n")[2], *after]
    control = control_tokens(tokenizer)
    return tuple(dict.fromkeys(plain for text in texts for plain in control.around(text) if plain.strip()))


def frame(
    tokenizer: Any, roles: tuple[str, ...], system: str, part: str, variables: Variables | None = None
) -> tuple[str, ...]:
    """The fixed text before, between and after turns of these roles: one more than there are turns.

    Each turn is a mark that no chat template trims or reads, so what is said in it stays to the letter.

    Args:
        variables: What the chat template is given beside the turns.

    Raises:
        InputError: There is no chat template, it does not show these turns, or it writes today's date.
    """
    if not tokenizer.chat_template:
        plain = "" if part == "conversation.v1" else "; set chat = false"
        raise InputError(f"{part}: a chat is to be written, but this model's tokenizer has no chat template{plain}")
    return _frame(tokenizer, roles, system, part, _stored(variables))


@per_tokenizer
def _frame(tokenizer: Any, roles: tuple[str, ...], system: str, part: str, variables: str) -> tuple[str, ...]:
    now, later = (_around(tokenizer, roles, system, part, json.loads(variables), moment) for moment in _MOMENTS)
    if now != later:
        known = _DATES.findall(str(tokenizer.chat_template))
        raise InputError(
            f"{part}: the model's chat template writes the date of the day, so that scores would change from day to "
            f'day; fix it, as by chat_template_kwargs = {{"{[*known, _CLOCK][0]}": "26 Jul 2024"}}, or give a system '
            "turn where the template then writes none"
        )
    return now


def _stored(variables: Variables | None) -> str:
    return json.dumps(variables or {}, sort_keys=True)


def _around(
    tokenizer: Any, roles: Sequence[str], system: str, part: str, variables: Variables, moment: str
) -> tuple[str, ...]:
    """The text around turns as it is written at a moment; some templates want a turn's content as a list of parts."""
    from jinja2 import TemplateError

    marks = [f"{_MARK}turn {number}{_MARK}" for number in range(len(roles))]
    said = [("system", system)] if system else []
    said += zip(roles, marks, strict=True)
    time = json.dumps(str(variables[_CLOCK])) if _CLOCK in variables else f'"{moment}" ~ format'
    # a macro takes the place of the function of its name; the line break behind it is the macro's
    template = f"{{% macro {_CLOCK}(format) %}}{{{{ {time} }}}}{{% endmacro %}}\n{tokenizer.get_chat_template()}"
    given = {name: value for name, value in variables.items() if name != _CLOCK}
    problem = ""
    for content in (str, _as_parts):
        turns = [{"role": role, "content": content(text)} for role, text in said]
        try:
            text = tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True, **given
            )
        except TemplateError as error:
            problem = problem or f"the model's chat template refuses these turns: {error}"
        except Exception as error:  # what a template does with what it is not made for
            problem = problem or f"the model's chat template fails on these turns: {type(error).__name__}: {error}"
        else:
            found = _between(text, marks)
            if found is not None and not any("'type': 'text'" in text for text in found):
                _require_system(system, found, part)
                return found
            problem = problem or _complaint(text, marks, roles, str(tokenizer.chat_template))
    raise InputError(f"{part}: {problem}")


def _require_system(system: str, around: Sequence[str], part: str) -> None:
    """Refuse a system turn that a chat template leaves out without a word."""
    if "".join(system.split()) not in "".join("".join(around).split()):
        raise InputError(
            f"{part}: the model's chat template does not show the system turn, so that the model would not read it; "
            "leave system empty, and write at the beginning of the template what it says"
        )


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _between(text: str, marks: Sequence[str]) -> tuple[str, ...] | None:
    """What stands around the marks; None where not each stands in its place, and once."""
    found = []
    for mark in marks:
        before, shown, text = text.partition(mark)
        if not shown or mark in text:
            return None
        found.append(before)
    return (*found, text)


def _complaint(text: str, marks: Sequence[str], roles: Sequence[str], template: str) -> str:
    """Why a rendering that has not each mark in its place cannot be used."""
    number = next((n for n, mark in enumerate(marks) if text.count(mark) != 1), None)
    if number is None:  # in another order: the first that stands before the one ahead of it
        number = next(n for n in range(1, len(marks)) if text.index(marks[n]) < text.index(marks[n - 1]))
    role, rest = roles[number], text
    for mark in marks:
        rest = rest.replace(mark, "")
    if all(re.search(rf"['\"]{name}['\"]", template) for name in ("query", "document")):
        return (
            "the chat template is made for turns of the roles query and document, and this formatter writes turns of a "
            "user and an assistant; set chat = false, and write as the formatter's template what the chat template "
            "makes of a query and a document"
        )
    if marks[number] not in text and (_MARK in rest or "turn " in rest):
        return (
            f"the chat template cuts or rewrites what the {role}'s turn says, so that a query or document would not be "
            "read as it is; set chat = false, or give the tokenizer a chat template that leaves it whole"
        )
    return f"the chat template does not show the {role}'s turn exactly once"
