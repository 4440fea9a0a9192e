"""Regenerates what the repository's documentation takes from the registry.

python docs/generate.py            writes docs/environments/*.md and the tables of the README
python docs/generate.py --check    fails if they are not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from metarl_agents.registry import AGENTS
from metarl_envs import family, registered_ids
from metarl_envs.page import markdown_table, page

ROOT = Path(__file__).resolve().parents[1]


def environments_table() -> str:
    """Returns the README's table of families."""
    rows = []
    for f in map(family, registered_ids()):
        counts = " / ".join(f"{split.count} {split.name}" for split in f.splits.values())
        note = " (the same)" if f.train_equals_test else ""
        rows.append((f"[`{f.id}`](docs/environments/{f.id}.md)", f.title, counts + note, f.horizon))
    return markdown_table(("id", "task", "tasks", "horizon"), rows)


def agents_table() -> str:
    """Returns the README's table of agents."""
    rows = [(f"`{entry.name}`", entry.title, entry.reference, entry.tier) for entry in AGENTS.values()]
    return markdown_table(("name", "what it is", "reference", "tier"), rows)


def replace_between(text: str, name: str, content: str) -> str:
    """Returns `text` with what stands between the markers of `name` replaced."""
    start, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers of {name!r} are missing")
    return f"{before}{start}{content}\n{end}{after}"


def generated() -> dict[Path, str]:
    """Returns every generated file's content."""
    readme = ROOT / "README.md"
    text = replace_between(readme.read_text(), "environments", environments_table())
    files = {readme: replace_between(text, "agents", agents_table())}
    for family_id in registered_ids():
        files[ROOT / "docs" / "environments" / f"{family_id}.md"] = page(family(family_id))
    return files


def main() -> int:
    """Writes or checks the files."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    kept = {f"{family_id}.md" for family_id in registered_ids()}
    stale += [p for p in (ROOT / "docs" / "environments").glob("*.md") if p.name not in kept]
    if "--check" in sys.argv:
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)} (run `make docs`)")
        return 1 if stale else 0
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
