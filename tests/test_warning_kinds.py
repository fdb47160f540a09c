"""Every kind of warning is one that is given, and no other text is logged as a warning."""

import ast
from pathlib import Path

from rerankkit.warnings import KINDS


def sources():
    for path in sorted((Path(__file__).parent.parent / "rerankkit").rglob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def test_every_kind_is_warned_of_somewhere_and_no_other():
    used, known = set(), set(KINDS)
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and name != "warnings.py":
                used |= {node.value} & known if isinstance(node.value, str) else set()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "warn":
                kind = node.args[0]
                assert not isinstance(kind, ast.Constant) or kind.value in known, f"{name}:{node.lineno}"
    assert used == known


def test_nothing_else_is_logged_as_a_warning():
    logged = [
        (name, node.args[0])
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warning"
    ]
    others = [f"{name}: {ast.unparse(said)}" for name, said in logged if name != "warnings.py"]
    assert [said for said in others if "finishing this step" not in said] == []  # which is news of an interrupt
