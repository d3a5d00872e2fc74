"""The table of settings in docs/configuration.md, made of the code that reads them."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields

from mixpanel_pipeline import project
from mixpanel_pipeline.source.configuration import MixpanelConfiguration

PAGE = project.folder() / "docs" / "configuration.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end of settings -->)", re.DOTALL)


def settings_table() -> str:
    """The table in Markdown: name, default and the first paragraph of what the code says of it."""
    rows = ["| setting | default | |", "|---|---|---|"]
    meanings = _meanings()
    for field in fields(MixpanelConfiguration):
        if field.name in MixpanelConfiguration.get_resolvable_fields():
            rows.append(f"| `{field.name}` | {_default(field.default)} | {meanings[field.name]} |")
    return "\n".join(rows) + "\n"


def stored_table(page: str) -> str:
    """The table that the page has."""
    found = _TABLE.search(page)
    assert found, f"{PAGE} has no place for the table"
    return found[0].strip() + "\n"


def write() -> None:
    """Put the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    table = settings_table()
    PAGE.write_text(_TABLE.sub(lambda _: f"\n{table}\n", page), encoding="utf-8")


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and value.is_integer():
        return f"`{value:.0f}`"
    return f"`{value}`"


def _meanings() -> dict[str, str]:
    """What stands behind each field in the source."""
    source = textwrap.dedent(inspect.getsource(MixpanelConfiguration))
    [declared] = ast.parse(source).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for statement, following in zip(declared.body, declared.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign):
            continue
        assert isinstance(statement.target, ast.Name)
        name = statement.target.id
        assert isinstance(following, ast.Expr), f"{name} says nothing of itself"
        assert isinstance(following.value, ast.Constant), name
        paragraph = inspect.cleandoc(str(following.value.value)).split("\n\n")[0]
        found[name] = " ".join(paragraph.split())
    return found
