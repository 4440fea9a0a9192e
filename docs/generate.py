"""Generates the parts of the documentation that are derived from the registries and from results/.

python docs/generate.py              write docs/environments, results/README.md and the tables of the README
python docs/generate.py --check      write nothing; fail if a file differs from what would be written
python docs/generate.py --pictures   redraw all pictures in docs/environments/pictures

Baseline returns are read from results/baselines (`make baselines`), results from the reports in results/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results_page import Results, summary_table
from results_page import page as results_page

from metarl_agents.registry import AGENTS
from metarl_envs import Family, family, registered_ids
from metarl_envs.pages.page import markdown_table, page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "environments"
PICTURES = PAGES / "pictures"
RESULTS = ROOT / "results"
BASELINES = RESULTS / "baselines"
REFERENCES = ("zero", "random", "oracle")
_STEPS = 4  # of random actions before a body's picture


def counts(f: Family) -> str:
    """Returns how many tasks the splits of a family have."""
    return " / ".join(
        "test = train" if name == "test" and f.train_equals_test else f"{split.count} {name}"
        for name, split in f.splits.items()
    )


def baselines(f: Family) -> dict[str, Any]:
    """Returns a family's recorded baselines, split -> reference -> figures; empty before they are run."""
    file = BASELINES / f"{f.id}.json"
    splits: dict[str, Any] = json.loads(file.read_text())["splits"] if file.exists() else {}
    return splits


def mean(figures: Mapping[str, Any], reference: str) -> str:
    """Returns a reference's mean return, rounded, or a dash where there is none."""
    return f"{figures[reference]['mean']:.1f}" if reference in figures else "–"


def baselines_section(f: Family) -> str:
    """Returns the page's section of baselines."""
    splits = baselines(f)
    bonus = any("mean_without_bonus" in row for figures in splits.values() for row in figures.values())
    head = ["split", "agent", "return (mean)", "IQM [95 % interval]", "success (at any step)", "steps"]
    if bonus:
        head.insert(3, "without the alive bonus")
    rows = []
    for split, figures in splits.items():
        for reference in REFERENCES:
            if reference not in figures:
                continue
            row = figures[reference]
            low, high = row["interval_95"]
            cells = [
                split,
                reference,
                f"{row['mean']:.2f}",
                f"{row['iqm']:.2f} [{low:.2f}, {high:.2f}]",
                f"{row['success_once']:.2f}",
                f"{row['mean_length']:.0f}",
            ]
            if bonus:
                cells.insert(3, f"{row['mean_without_bonus']:.2f}")
            rows.append(cells)
    return (
        "## Baselines\n\n"
        "Agents: zero actions, uniformly random actions and, where one exists, a scripted controller that"
        " observes the task (oracle). Each is evaluated on every task of a split with five seeds"
        f" ([data](../../results/baselines/{f.id}.json), recorded by `make baselines`).\n\n"
        + markdown_table(head, rows)
    )


def pictures_section(f: Family) -> str:
    """Returns the page's pictures."""
    return (
        f"![Rendering of the body, with the task marked in green](pictures/{f.id}.png)\n\n"
        f"![Task parameters of every split](pictures/{f.id}-tasks.png)"
    )


def index() -> str:
    """Returns the index page."""
    rows = []
    for f in map(family, registered_ids()):
        figures = baselines(f).get("test", {})
        rows.append(
            (
                f'<img src="pictures/{f.id}.png" width="120" alt="">',
                f"[`{f.id}`]({f.id}.md)<br>{f.title}",
                counts(f),
                *(mean(figures, reference) for reference in REFERENCES),
            )
        )
    return (
        "# Environments\n\n"
        "The last three columns are mean returns on the test tasks, including any alive bonus: with zero"
        " actions, with uniformly random actions, and for a scripted controller that observes the task"
        " (oracle). A dash means that there is no such controller; `test = train` means that both splits"
        " contain the same tasks.\n\n" + markdown_table(("", "family", "tasks", *REFERENCES), rows) + "\n"
    )


def environments_table() -> str:
    """Returns the README's table of families, one row per body name in the ids."""
    by_body: dict[str, list[str]] = {}
    for family_id in registered_ids():
        body, _, rest = family_id.partition("-")
        by_body.setdefault(body, []).append(f"[`{rest}`](docs/environments/{family_id}.md)")
    rows = [(f"`{body}-`", ", ".join(links)) for body, links in by_body.items()]
    return markdown_table(("body", "families"), rows)


def results_of(agent: str) -> str:
    """Returns links to the families for which results of an agent are recorded; empty if there are none."""
    families = [name for name in registered_ids() if (RESULTS / agent / name).is_dir()]
    return ", ".join(f"[{name}](results/{agent}/{name})" for name in families)


def agents_table() -> str:
    """Returns the README's table of agents."""
    rows = [
        (f"`{entry.name}`", entry.title, entry.reference, results_of(entry.name)) for entry in AGENTS.values()
    ]
    return markdown_table(("name", "method", "reference", "results"), rows)


def replace_between(text: str, name: str, content: str) -> str:
    """Returns `text` with what stands between the markers of `name` replaced."""
    start, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers of {name!r} are missing")
    return f"{before}{start}{content}\n{end}{after}"


def generated() -> dict[Path, str]:
    """Returns every generated text."""
    results = Results.read(RESULTS)
    readme = ROOT / "README.md"
    text = replace_between(readme.read_text(), "environments", environments_table())
    text = replace_between(text, "agents", agents_table())
    files = {
        readme: replace_between(text, "results", summary_table(results)),
        ROOT / "results" / "README.md": results_page(results),
        PAGES / "README.md": index(),
    }
    for f in map(family, registered_ids()):
        additions = {"Actions": pictures_section(f), "Provenance": baselines_section(f)}
        files[PAGES / f"{f.id}.md"] = page(f, additions)
    return files


def picture_files() -> dict[str, Path]:
    """Returns every picture the pages show, by its name."""
    names = [name for f in registered_ids() for name in (f"{f}.png", f"{f}-tasks.png")]
    return {name: PICTURES / name for name in names}


def draw() -> None:
    """Draws every family's body and task space."""
    import numpy as np
    from PIL import Image

    from metarl_envs import MetaEnv
    from metarl_envs.files import atomic_path
    from metarl_envs.pages.task_plot import plot_tasks

    for f in map(family, registered_ids()):
        env = MetaEnv(f, split="test", task=min(3, f.splits["test"].count - 1), render_mode="rgb_array")
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        for _ in range(_STEPS):
            env.step(rng.uniform(-1.0, 1.0, env.action_space.shape))
        # A palette makes a small file; this method keeps rare colours, such as the goal's.
        picture = Image.fromarray(env.render()).resize((360, 360), Image.Resampling.LANCZOS)
        picture = picture.quantize(200, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        with atomic_path(PICTURES / f"{f.id}.png") as path:
            picture.save(path, format="PNG", optimize=True)
        env.close()
        plot_tasks(f, PICTURES / f"{f.id}-tasks.png")


def unwanted() -> list[Path]:
    """Returns files of families that are no longer there."""
    pages = {"README.md", *(f"{name}.md" for name in registered_ids())}
    return [
        *(path for path in PAGES.glob("*.md") if path.name not in pages),
        *(path for path in PICTURES.glob("*") if path.name not in picture_files()),
    ]


def main() -> int:
    """Writes or checks the files."""
    if "--pictures" in sys.argv:
        draw()
        return 0
    texts = generated()
    if "--check" in sys.argv:
        stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
        stale += [path for path in picture_files().values() if not path.exists()]
        stale += unwanted()
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)} (run `make docs`)")
        return 1 if stale else 0
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in unwanted():
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
