"""What is imported, and how long it takes."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = "('torch', 'transformers', 'numpy', 'peft', 'confection', 'catalogue', 'pydantic', 'typer', 'rich')"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def seconds(code: str) -> float:
    start = time.perf_counter()
    run(code)
    return time.perf_counter() - start


def test_importing_rerankkit_imports_no_other_package() -> None:
    assert run(f"import rerankkit, sys; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_importing_rerankkit_takes_no_time() -> None:
    pairs = [(seconds("pass"), seconds("import rerankkit")) for _ in range(5)]
    assert statistics.median(ours - bare for bare, ours in pairs) < 0.15


def test_checking_a_recipe_takes_less_than_a_second_and_no_torch() -> None:
    code = "from rerankkit.recipe import check, read; import sys; problems = check(read('recipes/llm_pointwise.cfg')); "
    code += "print(problems, [m for m in ('torch', 'transformers', 'numpy', 'peft') if m in sys.modules])"
    assert run(code) == "[] []"
    assert min(seconds(code) for _ in range(3)) < 1.0
