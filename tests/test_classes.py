"""The name of a public class says which class is meant."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def public_classes() -> Iterator[tuple[str, str]]:
    """Yield the name and the module of each public class that a module defines at its top level."""
    for path in sorted((ROOT / "webhookd").rglob("*.py")):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                yield statement.name, str(path.relative_to(ROOT))


def test_no_two_public_classes_share_a_name() -> None:
    """Each public class of the package has a name of its own, so an import or a traceback can be read without doubt."""
    modules = defaultdict(list)
    for name, module in public_classes():
        modules[name].append(module)
    assert len(modules) > 300
    assert {name: found for name, found in modules.items() if len(found) > 1} == {}
