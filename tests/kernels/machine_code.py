"""Reads machine code as nvdisasm prints it, for registers that are touched while a tensor core still uses them.

Hopper's HGMMA goes on while the program does: it reads A from registers (or shared memory) and adds to D in registers.
An instruction closes a group of them with `gsb0`, and `WARPGROUP.DEPBAR.LE gsb0, n` waits until at most n groups are
unfinished. Until then nothing else may read or write D, nor write A. ptxas is to take care of it, and versions before
13.3 are reported not to (triton#11781).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Group = frozenset[int]
State = tuple[Group, ...]
"""Registers of the groups that are unfinished, oldest first; the last is still open, and may be empty."""
MOST = 4
"""Groups that are told apart; older ones are one. Our loops wait for all, or for all but one."""


@dataclass(frozen=True)
class Instruction:
    """One line: its predicate, its name, its operands."""

    predicate: str
    name: str
    operands: list[str]

    @property
    def registers(self) -> set[int]:
        """All that it reads or writes."""
        four, two = r"\.128|LDSM.*\.4|HMMA", r"\.64|LDSM.*\.2|CS2R$"
        width = 4 if re.search(four, self.name) else 2 if re.search(two, self.name) else 1
        found: set[int] = set()
        for place, operand in enumerate(self.operands):
            for number, wide in re.findall(r"(?<![A-Z])R(\d+)(\.64)?", operand):
                inside = 2 if wide else 1  # an address is a register, or two
                pair = 2 if ".WIDE" in self.name and place in (0, 3) else width
                found |= set(range(int(number), int(number) + (inside if "[" in operand else pair)))
        return found

    @property
    def product(self) -> tuple[set[int], set[int]]:
        """Registers of D and of A of an HGMMA."""
        shape = re.match(r"HGMMA\.64x(\d+)x\d+\.F32", self.name)
        assert shape, f"registers of {self.name} are not known"
        first = [int(one[1:]) if re.fullmatch(r"R\d+", one) else None for one in self.operands[:2]]
        assert first[0] is not None
        results = set(range(first[0], first[0] + int(shape[1]) // 2))
        return results, set() if first[1] is None else set(range(first[1], first[1] + 4))


def instructions(code: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of one kernel, and at which of them labels stand."""
    found, labels = [], {}
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(found)
        elif words := re.search(r"\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            operands = [part.strip() for part in words[3].split(",")]
            found.append(Instruction(words[1] or "", words[2], operands))
    return found, labels


def hazards(code: str) -> list[str]:
    """Instructions that touch a register of an unfinished HGMMA, on any path through branches and loops."""
    program, labels = instructions(code)
    seen: set[tuple[int, State]] = set()
    paths: list[tuple[int, State]] = [(0, (frozenset(),))]
    found: dict[int, str] = {}
    while paths:
        place, state = paths.pop()
        if place >= len(program) or (place, state) in seen:
            continue
        seen.add((place, state))
        one = program[place]
        busy = frozenset().union(*state)
        if one.name.startswith("HGMMA"):
            results, inputs = one.product
            state = (*state[:-1], state[-1] | results | inputs)
            if "gsb0" in one.operands:
                state = (*state, frozenset())
                state = (frozenset().union(*state[:-MOST]), *state[-MOST:]) if len(state) > MOST else state
        elif one.name.startswith("WARPGROUP.DEPBAR"):
            state = state[-1 - int(one.operands[-1], 0) :]
        elif one.registers & busy:
            found[place] = f"{one.name} {', '.join(one.operands)}"
        if one.name.startswith("BRA"):
            target = re.search(r"\.L_x_\d+", one.operands[-1])
            assert target, f"where {one.operands} leads is not known"
            paths.append((labels[target[0]], state))
        if one.predicate or one.name not in ("BRA", "EXIT", "RET"):
            paths.append((place + 1, state))
    return [found[place] for place in sorted(found)]
