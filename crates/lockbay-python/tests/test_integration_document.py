"""What docs/python-integrations.md says to type does what it says."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from conditions import on_a_loop

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/python-integrations.md"


@on_a_loop
async def test_what_the_document_of_the_integrations_says_to_type_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = DOCUMENT.read_text()
    names: dict[str, Any] = {"__name__": "__main__"}
    snippets = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for snippet in snippets:
        # So that what fails is told with its line in the document.
        source = "\n" * text[: snippet.start(1)].count("\n") + snippet[1]
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, str(DOCUMENT), "exec", flags=flags, dont_inherit=True)
        running = eval(code, names)
        if inspect.isawaitable(running):
            await running
    assert not names["bay"].is_open
