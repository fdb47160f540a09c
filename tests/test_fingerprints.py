"""Numbers in place of texts: the same everywhere, and looked up as a dict of sets would."""

import random
import subprocess
import sys
from collections import defaultdict

from rerankkit.fingerprints import Table, fingerprint


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    texts = ["", "a", "ä", "\ud800", "the same text"]
    here = [fingerprint(text) for text in texts]
    assert len(set(here)) == len(texts)
    assert all(0 <= number < 2**64 for number in here)
    code = f"from rerankkit.fingerprints import fingerprint as f; print([f(text) for text in {texts!a}])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)


def test_a_table_is_a_dict_of_sets() -> None:
    draw = random.Random(0)
    keys = [draw.getrandbits(64) for _ in range(50)] + [0, 2**63, 2**64 - 1]
    table, reference = Table(), defaultdict[int, set[int]](set)
    for _ in range(400):
        key, value = draw.choice(keys[1:]), draw.getrandbits(64)
        for _ in range(draw.randrange(1, 3)):
            table.add(key, value)
        reference[key].add(value)
    table.seal()
    assert all(table[key] == reference[key] for key in [*keys, 5])
    assert not table.has_one_value_each()


def test_one_value_each() -> None:
    for pairs, expected in [([], True), ([(1, 2), (1, 2), (3, 2)], True), ([(1, 2), (3, 2), (1, 4)], False)]:
        table = Table()
        for key, value in pairs:
            table.add(key, value)
        table.seal()
        assert table.has_one_value_each() == expected
