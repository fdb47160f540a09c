"""Fingerprints are the same everywhere, and a table of them finds what a dict of sets would."""

import random
import subprocess
import sys
from collections import defaultdict

from rerankkit.fingerprints import Table, fingerprint


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    code = "from rerankkit.fingerprints import fingerprint; print(fingerprint('Grüße'))"
    others = {
        int(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
            ).stdout
        )
        for seed in "12"
    }
    assert others == {fingerprint("Grüße")}
    assert 0 <= fingerprint("") < 2**64
    assert fingerprint("\ud800") != fingerprint("\ud801")  # halves of characters are texts too


def test_a_table_is_a_dict_of_sets() -> None:
    draw = random.Random(0)
    expected: defaultdict[int, set[int]] = defaultdict(set)
    table = Table()
    for _ in range(2000):  # near 2**64, neighbours would be one number as floats
        key, value = 2**64 - 1 - draw.randrange(300), draw.randrange(2**64)
        table.add(key, value)
        expected[key].add(value)
    table.seal()
    for key in range(2**64 - 310, 2**64):
        assert table[key] == expected.get(key, set())
    assert not table.has_one_value_each()


def test_whether_a_key_has_two_values() -> None:
    once, empty = Table(), Table()
    for key, value in [(1, 5), (2, 5), (1, 5)]:
        once.add(key, value)
    once.seal()
    empty.seal()
    assert once.has_one_value_each() and empty.has_one_value_each()
    assert empty[7] == frozenset()
