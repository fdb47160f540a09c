"""Lines on stderr, and silence for the libraries beneath."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as transformers_logging

from rerankkit.progress import Bar, quiet_libraries

LONG = "step 1/9  validation  " + "nDCG@10 0.1234 [bold]  " * 9


def test_lines_are_printed_whole_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("training") as bar:
        bar.start(9, done=3)
        bar.say(LONG)
        bar.move_to(5)
        bar.advance()
    with Bar("training", quiet=True) as bar:
        bar.start(9)
        bar.say("not this")
    captured = capsys.readouterr()
    assert captured.err.rstrip() == LONG.rstrip()  # neither wrapped nor coloured, and no bar
    assert captured.out == ""


def say(module: str) -> None:
    exec("import warnings; warnings.warn('advice', FutureWarning)", {"__name__": module, "__warningregistry__": {}})


def test_advice_of_libraries_is_kept_back_and_nothing_else() -> None:
    indexing, verbosity = logging.getLogger("bm25s"), transformers_logging.get_verbosity()
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    indexing.addHandler(handler)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with quiet_libraries():
            indexing.setLevel(logging.DEBUG)
            indexing.debug("Building index")
            indexing.warning("something is wrong")
            for module in ("transformers.trainer", "peft.utils", "torch", "transformersx", "rerankkit", "mine"):
                say(module)
            assert transformers_logging.get_verbosity() == logging.ERROR
            assert not transformers_logging.is_progress_bar_enabled()
            assert not are_progress_bars_disabled()  # a download may take minutes
        assert len(found) == 3
        say("transformers.trainer")
        assert len(found) == 4
    indexing.debug("Building index again")
    indexing.removeHandler(handler)
    assert records == ["something is wrong", "Building index again"]
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled()


def test_what_the_user_asked_to_see_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    with quiet_libraries():
        assert transformers_logging.is_progress_bar_enabled()


def test_bars_of_downloads_stay_off_where_they_were_switched_off() -> None:
    code = (
        "from rerankkit.progress import quiet_libraries\n"
        "from huggingface_hub.utils import are_progress_bars_disabled as off\n"
        "with quiet_libraries(): print(off())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
