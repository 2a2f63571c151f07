"""docs/compatibility.md is what the code says, and says something about every field."""

from __future__ import annotations

import re

from scripts.compatibility import TARGET, page


def test_page_is_what_the_code_says() -> None:
    assert TARGET.read_text() == page(), "run: python -m scripts.compatibility"


def test_every_field_and_route_is_explained() -> None:
    rows = re.findall(r"^\| `(.+?)` \| .* \| (.*) \|$", page(), re.MULTILINE)
    assert len(rows) > 150
    assert [name for name, meaning in rows if not meaning] == []
    routes = re.findall(r"^### (.+)\n\n(.*)$", page(), re.MULTILINE)
    assert [route for route, meaning in routes if not meaning] == []
