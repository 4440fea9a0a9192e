"""The results in the repository, and the pages that are generated from them."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from metarl_agents.sweep.matrix import find_cells
from metarl_agents.sweep.tables import commands
from metarl_envs.evaluation import Report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
ID = "MetaPoint-Goal-v0"


@pytest.fixture
def generate(monkeypatch):
    """The script docs/generate.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import generate

    return generate


@pytest.fixture
def small(tmp_path):
    """A copy of a part of the results: one agent on one family, and the checks of presets of another."""
    for name in ("papers.toml", "remarks"):
        copy = shutil.copytree if (RESULTS / name).is_dir() else shutil.copyfile
        copy(RESULTS / name, tmp_path / name)
    for part in (f"pearl/{ID}", "validation/td3/MetaHalfCheetah-Dir-v0"):
        shutil.copytree(RESULTS / part, tmp_path / part)
    (tmp_path / "marks.toml").write_text(
        f'[[marks]]\nmark = "too good"\nfamily = "{ID}"\npreset = "fast"\nagents = ["pearl"]\n'
    )
    return tmp_path


def test_every_report_is_read_and_every_cell_is_on_the_page():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = find_cells([RESULTS])
    runs = {run.path for cell in cells for run in cell.runs}
    # The same run may be there twice: once with evaluations during training, once of the campaign.
    twice = {path for path in RESULTS.rglob("*-seed-*") if (path / "evaluations.jsonl").exists()}
    assert {path.parent for path in RESULTS.rglob("report_*.json")} - twice <= runs
    text = (RESULTS / "README.md").read_text()
    for cell in cells:
        score = cell.summary.score
        for value in (f"{score.value:.4g} [{score.low:.4g}, {score.high:.4g}]", *cell.seed_scores):
            assert (value if isinstance(value, str) else f"{value:.4g}") in text, cell.key


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_links_lead_to_something(page):
    text = (ROOT / page).read_text()
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)}
    assert len(targets) > 20
    for target in targets - {""}:
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target
    # The files that remarks name in their text.
    for name in re.findall(r"`([\w-]+/[\w/.-]+\.(?:jsonl?|png|py))`", text) if "/" in page else ():
        file = name.replace("ID", ID)
        assert (RESULTS / file).exists() or (ROOT / file).exists(), name


def test_the_page_separates_results_choices_and_remarks(generate, small):
    results = generate.Results.read(small)
    text = generate.results_page(results)
    (record,) = results.records
    own, choices = text.split("## Choices of presets")
    assert f"| [`pearl`](pearl/{ID}) fast, *too good* | pearl |" in own
    for seed, value in zip(record["seeds"], record["seed_scores"], strict=True):
        assert f"{seed}: {value:.4g}" in own
    assert f"metarl train pearl {ID} --preset fast --seed 0,1,2 --out RUNS\n" in own
    assert "metarl evaluate RUNS/seed-* --split test --protocol pearl --seeds 0,1,2\n" in own
    assert "| `td3` fast |" in choices
    assert "`td3` fast" not in own
    # Remarks of a family are below its table, others at the end.
    assert own.index(f"### {ID}: test tasks") < own.index("similar configurations closed 70 to 73 %")
    assert choices.index("| `td3` fast |") < choices.index("## Speed")
    table = generate.summary_table(results)
    assert table.count("\n") == 2
    assert f"[`pearl`](results/pearl/{ID}) fast | {record['iqm']:.4g} [" in table
    assert table.endswith("| too good |")
    assert "td3" not in table


def test_the_result_of_the_table_is_the_one_with_most_seeds_and_no_changes(generate, small):
    (record,) = generate.Results.read(small).records
    changed = {**record, "changes": "gamma=0.5"}
    other = {**record, "evaluation": f"{record['evaluation']} --set context=3"}
    fewer = {**record, "seeds": [0]}
    train = {**record, "split": "train", "seeds": [0, 1, 2, 3]}
    results = generate.Results(small, [fewer, changed, other, train, record], [], None, {}, {})
    assert results.chosen("pearl", ID) is record
    assert results.chosen("crl", ID) is None


def test_commands_join_the_seeds_and_keep_evaluations_with_their_training():
    trained = [f"metarl train mql {ID} --seed {seed} --out 'my runs/x' --no-progress" for seed in (0, 1)]
    changed = f"metarl train mql {ID} --set gamma=0.5 --seed 2"
    one = {"seeds": [0, 1, 2], "commands": [*trained, changed], "evaluation": "--protocol mql"}
    two = {**one, "evaluation": "--protocol mql --set adaptation=none"}
    assert commands([one, two]) == [
        f"metarl train mql {ID} --seed 0,1 --out RUNS",
        "metarl evaluate RUNS/seed-* --protocol mql",
        "metarl evaluate RUNS/seed-* --protocol mql --set adaptation=none",
        f"metarl train mql {ID} --set gamma=0.5 --seed 2 --out RUNS",
        "metarl evaluate RUNS --protocol mql",
        "metarl evaluate RUNS --protocol mql --set adaptation=none",
    ]


def test_a_study_has_a_section_with_its_remarks(generate, small):
    def variant(area, reached):
        curve = {"statistic": "IQM", "interval": "none", "estimate": [0.1 * k for k in range(20)]}
        return {"score_mean": 2 * area, "success": 0.25, "area": [area, area - 1, area + 1], "curve": curve,
                "episodes_until_80_percent": reached}  # fmt: skip

    study = {
        "command": "metarl study iwpa X", "family": ID, "pretraining": "distral", "preset": "fast",
        "train_tasks": 8, "split": "test", "tasks": 5, "trial_seeds": [0], "episodes": 20,
        "seeds": {"0": {"prior_coverage_of_validation_tasks": 0.9, "pretraining_core_seconds": 61.2}},
        "references": {"zero": 0.0, "oracle": 13.25},
        "variants": {"iwpa": variant(8.0, 12), "scratch": variant(1.5, None), "prior": variant(1.0, None)},
        "differences": [
            {"first": a, "second": b, "episodes": part, "first_minus_second": [gap, gap - 1, gap + 1],
             "interval_over_tasks": [gap - 0.5, gap + 0.5]}
            for part, scale in (([1, 20], 1), ([1, 10], 0.5))
            for a, b, gap in (
                ("iwpa", "scratch", 6.5 * scale), ("iwpa", "prior", 7 * scale), ("scratch", "prior", 0.5)
            )
        ],
    }  # fmt: skip
    folder = small / "iwpa" / "quick"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study))
    (folder / "remarks.md").write_text("What limits it.\n")
    text = generate.results_page(generate.Results.read(small))
    section = text[text.index("## Adaptation study: quick") :]
    assert "8 training tasks" in section
    assert "zero 0, oracle 13.25" in section
    assert "0.90 (seed 0)" in section
    assert "| `iwpa` | 16 | 25% | 8 [7, 9] | 0.9 | 1.9 | – | 12 |" in section
    assert "| `scratch` | 3 | 25% | 1.5 [0.5, 2.5] | 0.9 | 1.9 | – | – |" in section
    assert "|  | `scratch` | `prior` |" in section
    assert "| `iwpa` | 6.5 [6, 7] (5.5, 7.5) | 7 [6.5, 7.5] (6, 8) |" in section
    assert "| `iwpa` | 3.25 [2.75, 3.75] (2.25, 4.25) | 3.5 [3, 4] (2.5, 4.5) |" in section
    assert "| `scratch` |  | 0.5 [0, 1] (-0.5, 1.5) |" in section
    assert section.index("metarl study iwpa X") < section.index("What limits it.") < section.index("## Speed")


def test_a_study_of_slbo_has_a_section(generate, small):
    def result(value):
        return {"score": [value, value - 1, value + 1], "scores": [[value, value], [value + 2, value]],
                "curve": [value, -90.0, value + 5], "references": {"zero": -200.0}}  # fmt: skip

    costs = {"env_steps": 120_000, "rating_steps": 4_000, "trained_tasks": 29, "skipped_tasks": 3,
             "virtual_minus_real_of_the_last_tasks": None, "core_seconds": 1234.5}  # fmt: skip
    study = {
        "command": "metarl study slbo-tasks X", "family": ID, "preset": "fast", "split": "test",
        "protocol": "slbo", "adapting": [False, True, False], "tasks": [[1.0], [2.0]],
        "results": {"5 tasks": result(-40.0), "10 tasks": result(-30.0)},
        "differences": [{"first": "5 tasks", "second": "10 tasks", "first_minus_second": [-10, -12, -8]}],
        "seeds": {"0": {"none": costs}},
    }  # fmt: skip
    folder = small / "slbo" / "quick"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study))
    text = generate.results_page(generate.Results.read(small))
    section = text[text.index("## Multi-task SLBO: quick") :]
    assert "2 test tasks, protocol `slbo`" in section
    assert "| 5 tasks | -40 [-41, -39] | -40, -39 |" in section
    assert "| zero | -200 |" in section
    assert "| 10 tasks | -30 | -25 |" in section
    assert "| 5 tasks | 10 tasks | -10 [-12, -8] |" in section
    assert "| 0 | none | 120,000 | 4,000 | 29 | 3 | – | 1,234 |" in section


def test_a_mark_or_a_remark_of_nothing_is_refused(generate, small):
    (small / "remarks" / "MetaPoint-Gaol-v0.md").write_text("Remark.")
    with pytest.raises(ValueError, match="there is no family MetaPoint-Gaol-v0"):
        generate.Results.read(small)
    (small / "remarks" / "MetaPoint-Gaol-v0.md").unlink()
    marks = small / "marks.toml"
    marks.write_text(marks.read_text().replace("pearl", "crl"))
    with pytest.raises(ValueError, match=f"there is no result of crl \\(fast\\) on {ID}"):
        generate.Results.read(small)


def test_the_check_fails_when_a_report_or_a_remark_changes(generate, tmp_path, monkeypatch, capsys):
    changed = tmp_path / "results"
    shutil.copytree(RESULTS, changed, ignore=shutil.ignore_patterns("*.png", "benchmarks"))
    monkeypatch.setattr(generate, "RESULTS", changed)
    # Building the pages of the families takes most of the time; another test compares them.
    monkeypatch.setattr(generate, "page", lambda f, additions: (generate.PAGES / f"{f.id}.md").read_text())
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])

    def check():
        return generate.main(), capsys.readouterr().out.splitlines()

    assert check() == (0, [])
    remark = changed / "remarks" / "speed.md"
    remark.write_text(remark.read_text() + "\nMore.\n")
    assert check() == (1, ["stale: results/README.md (run `make docs`)"])
    report = changed / "pearl" / ID / "fast-seed-1" / "report_test_pearl.json"
    values = json.loads(report.read_text())
    values["returns"] = [[[value + 1.0 for value in task] for task in seed] for seed in values["returns"]]
    report.write_text(json.dumps(values))
    assert Report.from_json(report).returns.shape == (3, 20, 3)
    both = ["stale: README.md (run `make docs`)", "stale: results/README.md (run `make docs`)"]
    assert check() == (1, both)
