"""What the documents say to type does what they say.

A snippet of docs/python.md goes on from those before it, as in `python -m asyncio`; those of other
documents are programs of their own. A snippet that fails is told with its line in the document.
"""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, get_args, get_type_hints

import pytest

import lockbay
from lockbay import documents, errors
from lockbay.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


def snippets(document: str) -> Iterator[str]:
    """Each, with as many empty lines before it as there are lines before it in the document."""
    text = (ROOT / document).read_text()
    found = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"{document} has no snippet"
    at = 0
    for snippet in found:
        at = text.index(snippet, at)
        yield "\n" * text[:at].count("\n") + snippet


def test_what_the_python_document_says_to_type_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def type_all() -> None:
        names: dict[str, Any] = {"__name__": "__main__"}
        for snippet in snippets("docs/python.md"):
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(snippet, "docs/python.md", "exec", flags=flags, dont_inherit=True)
            running = eval(code, names)
            if inspect.isawaitable(running):
                await running

    asyncio.run(asyncio.wait_for(type_all(), 90))


@pytest.mark.parametrize("document", ["README.md", "crates/lockbay-python/README.md"])
def test_what_the_readme_says_to_run_runs(document: str, tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    for snippet in snippets(document):
        command = [sys.executable, "-c", snippet]
        ran = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr


def test_every_kind_of_error_stands_in_the_document_with_its_class() -> None:
    document = (ROOT / "docs/python.md").read_text()
    row = r"^\| `(\w+)`(?:, also a `ValueError`)? \| `([\w-]+)` \|$"
    told = dict(re.findall(row, document, re.MULTILINE))
    assert told == {error.__name__: kind for kind, error in errors.BY_KIND.items()}


def test_the_names_for_type_checkers_are_those_that_there_are() -> None:
    assert list(get_args(documents.EventName)) == lockbay.EVENTS
    with pytest.raises(errors.Invalid) as refused:
        lockbay.LockBay(no_such_setting=1)  # type: ignore[call-arg]
    known = str(refused.value).rsplit("there are ", 1)[1].split(", ")
    # The store has a parameter of its own.
    assert ["store", *get_type_hints(Settings)] == known
