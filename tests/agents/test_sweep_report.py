"""The matrix of a sweep's results, its export, and learning curves of several seeds."""

import csv
import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_run import ENV, OVERRIDES
from typer.testing import CliRunner

from metarl_agents import train
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.run.curves import Curve, plot_learning
from metarl_agents.run.directory import RunError
from metarl_agents.sweep.export import export
from metarl_agents.sweep.matrix import Papers, find_cells
from metarl_agents.sweep.report import aggregates, rows, write_report
from metarl_agents.sweep.spec import read_spec
from metarl_agents.sweep.tables import commands
from metarl_agents.sweep.worker import FINISHED, run_job
from metarl_envs.evaluation import Report, iqm

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[2]
PROMP = dict(text.split("=") for text in OVERRIDES["promp"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two agents, two and one training seeds, evaluated with two trial seeds on four tasks."""
    folder = tmp_path_factory.mktemp("sweep")
    promp = ", ".join(f"{key} = {value}" for key, value in PROMP.items())
    oracle = ", ".join(f"{k} = {v}" for k, v in (text.split("=") for text in OVERRIDES["oracle"]))
    (folder / "spec.toml").write_text(
        f"""
        families = ["{ENV}"]
        trial_seeds = [0, 1]
        tasks = 4
        [[groups]]
        agents = ["promp"]
        seeds = [0, 1]
        overrides = {{ {promp}, total_env_steps = 1080 }}
        [[groups]]
        agents = ["oracle"]
        seeds = [0]
        overrides = {{ {oracle}, total_env_steps = 2140 }}
        """
    )
    for job in read_spec(folder / "spec.toml"):
        assert run_job(job.write(folder / "out")) == FINISHED
    return folder / "out"


def test_cells_hold_the_seeds_their_costs_and_their_references(sweep):
    by_agent = {cell.key.agent: cell for cell in find_cells([sweep])}
    promp = by_agent["promp"]
    assert [run.seed for run in promp.runs] == [0, 1]
    assert promp.key.protocol == "promp"
    assert promp.runs[0].env_steps == 1080
    assert promp.runs[0].core_seconds > 0
    found = [Report.from_json(next(run.path.glob("report_*.json"))) for run in promp.runs]
    # Trial seeds are averaged first, as in the score of several training seeds.
    scores = np.array([iqm(report.scores.mean(axis=0)) for report in found])
    np.testing.assert_allclose(promp.seed_scores, scores)
    assert promp.oracle_name == "scripted"
    zero, oracle = (float(iqm(found[0].references[name].mean(axis=0))) for name in ("zero", "oracle"))
    np.testing.assert_allclose(promp.shares, (scores - zero) / (oracle - zero))
    alone = by_agent["oracle"]
    assert alone.seed_scores == [alone.summary.score.value]
    assert alone.references == alone.summary.references
    (record,) = (r for r in rows([promp], Papers()))
    assert record["seeds"] == [0, 1]
    assert record["commands"][1].startswith(f"metarl train promp {ENV} --preset fast --seed 1 --set ")
    assert record["gap_closed"] == pytest.approx(promp.shares.mean())
    assert (record["zero"], record["oracle"]) == (pytest.approx(zero), pytest.approx(oracle))
    assert record["interval_over"] == "2 training seeds"
    assert alone.interval_over == "2 trial seeds"
    train, evaluate = commands([record])
    assert train.startswith(f"metarl train promp {ENV} --preset fast --set ")
    assert train.endswith(" --seed 0,1 --out RUNS")
    assert evaluate == "metarl evaluate RUNS/seed-* --split test --protocol promp --seeds 0,1 --tasks 4"


def test_where_there_is_no_scripted_oracle_a_trained_one_is_the_reference(sweep, monkeypatch):
    original = Report.from_json.__func__

    def without_oracle(cls, path):
        report = original(cls, path)
        object.__setattr__(report, "references", {"zero": report.references["zero"]})
        return report

    monkeypatch.setattr(Report, "from_json", classmethod(without_oracle))
    cells = {cell.key.agent: cell for cell in find_cells([sweep])}
    assert cells["promp"].oracle_name == "oracle, trained"
    assert cells["promp"].oracle == iqm(cells["oracle"].result.scores)


def test_the_report_has_every_number_beside_published_ones(sweep, tmp_path):
    papers = tmp_path / "papers.toml"
    papers.write_text(
        f'[papers.mine]\nfamilies = ["{ENV}"]\n[[figures]]\nagent = "promp"\nfamily = "{ENV}"\n'
        'value = -7.5\nsource = "table 1"\n'
    )
    result = CliRunner().invoke(app, ["report", str(sweep), "--out", str(tmp_path), "--papers", str(papers)])
    assert result.exit_code == 0, result.exception
    assert {line.rpartition("/")[2] for line in result.output.split()} == {
        "report.md", "report.csv", "report.json"
    }  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert f"## {ENV} (test)" in text
    assert "-7.5 (table 1)" in text
    assert "4 tasks, 2 training seeds, 2 trial seeds" in text
    assert "intervals: bootstrap over training seeds, stratified by task" in text
    assert "4 tasks, 1 training seed, 2 trial seeds" in text
    assert "oracle (scripted)" in text
    assert f"    metarl train oracle {ENV} --preset fast --set " in text
    assert "    metarl evaluate RUNS/seed-* --split test --protocol promp --seeds 0,1 --tasks 4\n" in text
    lines = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert [(line["agent"], line["seed"]) for line in lines] == [
        ("oracle", "0"),
        ("promp", "0"),
        ("promp", "1"),
    ]
    values = json.loads((tmp_path / "report.json").read_text())
    assert [cell["agent"] for cell in values["cells"]] == ["oracle", "promp"]
    assert values["cells"][1]["published"] == [{"value": -7.5, "source": "table 1"}]
    # All of these runs change the preset, so none of them counts for the presets' shares.
    assert values["aggregates"] == []
    with pytest.raises(ConfigError, match="cannot be read as a list of published numbers"):
        Papers.read(tmp_path / "report.csv")


def test_shares_are_aggregated_over_families_and_by_paper(sweep, tmp_path, monkeypatch):
    cells = find_cells([sweep])
    plain = [dataclasses.replace(cell, key=cell.key._replace(changes="")) for cell in cells]
    papers = Papers(families={"mine": (ENV,), "other": ("MetaAnt-Goal-v0",)})
    found = {(a.agent, a.paper): a for a in aggregates(plain, papers)}
    assert set(found) == {
        (f"{agent} (fast)", paper) for agent in ("oracle", "promp") for paper in ("", "mine")
    }
    promp = found["promp (fast)", ""]
    assert promp.shares.shape == (2, 1)
    assert promp.value == pytest.approx(promp.shares.mean())
    low, high = promp.interval
    assert low <= promp.value <= high
    assert found["oracle (fast)", ""].interval is None
    assert aggregates(cells, papers) == []
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    written = write_report(plain, tmp_path, papers)
    left, right = drawn[0].axes
    assert [label.get_text() for label in left.get_yticklabels()] == [ENV]
    assert "share of the gap between zero action (0) and the oracle (1)" in left.get_xlabel()
    assert {t.get_text() for t in right.get_legend().get_texts()} == {
        "oracle (fast), families: 1", "promp (fast), families: 1"
    }  # fmt: skip
    assert "one dot per training seed" in drawn[0].get_supxlabel()
    assert [path.name for path in written] == ["report.md", "report.csv", "report.json", "report.png"]
    text = (tmp_path / "report.md").read_text()
    assert "| `promp (fast)` | mine | 1 | 2 |" in text


def rounded(records):
    """Sums of condensed episodes differ in the last digit."""
    return json.loads(json.dumps(list(records)), parse_float=lambda text: round(float(text), 9))


def test_an_exported_run_gives_the_same_cell_and_is_not_replaced_by_another(sweep, tmp_path):
    targets = export(sweep, tmp_path)
    assert len(targets) == 3
    assert all(path.name.startswith("fast-seed-") for path in targets)
    assert not list(tmp_path.rglob("checkpoints"))
    before, after = find_cells([sweep]), find_cells([tmp_path])
    assert rounded(rows(before, Papers())) == rounded(rows(after, Papers()))
    # A run that is in both places counts once.
    assert [len(cell.runs) for cell in find_cells([sweep, tmp_path])] == [1, 2]
    assert export(sweep, tmp_path) == targets
    config = json.loads((targets[0] / "config.json").read_text())
    config["config"]["gamma"] = 0.5
    (targets[0] / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="contains a run with another configuration"):
        export(sweep, tmp_path)
    (targets[1] / "report_test_promp.json").write_text("{}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(find_cells([tmp_path])) == 2
    assert "left out" in str(caught[0].message)
    with pytest.raises(ConfigError, match="no run with a report"):
        find_cells([tmp_path / "nowhere"])


@pytest.mark.filterwarnings("ignore::metarl_agents.registry.PresetWarning")
def test_the_published_numbers_of_the_repository_are_of_known_agents_and_families():
    from metarl_agents.registry import find_agent
    from metarl_envs import registered_ids

    papers = Papers.read(ROOT / "results" / "papers.toml")
    assert len(papers.figures) > 15
    for figure in papers.figures:
        find_agent(figure.agent)
        assert figure.family in registered_ids()
        assert figure.source
    assert {f for families in papers.families.values() for f in families} <= set(registered_ids())
    for name in ("reference", "validation"):
        assert read_spec(ROOT / "results" / f"{name}.toml")


# -- learning curves and commands on several seeds ---------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Runs of two training seeds, from one command."""
    out = tmp_path_factory.mktemp("seeds") / "runs"
    words = ["--steps", "1080", "--seed", "0,1", "--out", str(out), "--no-progress"]
    for text in OVERRIDES["promp"]:
        words += ["--set", text]
    result = CliRunner().invoke(app, ["train", "promp", ENV, *words])
    assert result.exit_code == 0, result.exception
    return [out / "seed-0", out / "seed-1"]


def test_a_curve_of_several_seeds_is_their_iqm_with_a_band():
    one = np.array([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0]])
    two = np.array([[0.0, 4.0], [20.0, 24.0]])
    steps, middle, low, high = Curve("a", "m", (one, two)).summary()
    assert steps.tolist() == [0.0, 10.0, 20.0]
    assert middle.tolist() == [2.0, 12.0, 22.0]
    assert (low <= middle).all()
    assert (high >= middle).all()
    assert low[0] == 0.0
    assert high[0] == 4.0


def test_learning_curves_say_in_words_what_they_show(seeds, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (drawn.append(self), path.touch()))
    assert plot_learning(seeds, tmp_path / "a.png") == []
    plot_learning(seeds[:1], tmp_path / "b.png")
    plot_learning(seeds[:1], tmp_path / "c.png", metrics=["update/policy_kl", "update/start_kl"])
    several, single, chosen = drawn
    axes = several.axes[0]
    assert axes.get_xlabel() == "environment steps"
    assert axes.get_ylabel() == "return of the adapted policy"
    assert len([line for line in axes.lines if line.get_linewidth() < 1]) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["promp (fast)"]
    assert several.get_supxlabel().startswith("2 training seeds, one thin line each.")
    assert "band: its 95% bootstrap interval" in several.get_supxlabel()
    assert single.get_supxlabel() == "One training seed."
    assert "mean KL divergence of the outer policies" in chosen.axes[0].get_ylabel()
    assert len({line.get_linestyle() for line in chosen.axes[0].lines}) == 2


def test_a_run_of_one_iteration_is_a_point_and_that_is_said(tmp_path):
    train("promp", ENV, out=tmp_path / "x", overrides=OVERRIDES["promp"], steps=300, progress=False)
    (remark,) = plot_learning([tmp_path / "x"], tmp_path / "a.png")
    assert "only one point of collect/return_after; a curve needs a run of more iterations" in remark


def test_commands_take_several_seeds(seeds, tmp_path):
    runner = CliRunner()
    words = ["--tasks", "3", "--seeds", "0,1"]
    result = runner.invoke(app, ["evaluate", *map(str, seeds), *words, "--no-progress"])
    assert result.exit_code == 0, result.exception
    # The agent's own protocol, and the pooled result at the end.
    assert f"written: {seeds[0]}/report_test_promp.json and .png" in result.output
    assert "3 tasks, 2 training seeds, 2 trial seeds" in result.output
    files = [str(path / "report_test_promp.json") for path in seeds]
    both = runner.invoke(app, ["compare", *files, "--", *files])
    assert "paired over 3 tasks (2 and 2 training seeds)" in both.output
    assert "not separable" in both.output
    assert runner.invoke(app, ["compare", *files]).output.startswith("first: ")
    lonely = runner.invoke(app, ["compare", files[0]])
    assert "compare takes two reports" in str(lonely.exception)
    plots = runner.invoke(app, ["plot", *map(str, seeds), "--out", str(tmp_path)])
    assert f"{tmp_path}/adaptation_{ENV}_test_promp.png" in plots.output
    again = runner.invoke(app, ["resume", str(seeds[0])])
    assert f"nothing to do: {seeds[0]} is finished (1,080 environment steps)" in again.output


def test_a_run_takes_the_configuration_that_another_command_prints(seeds, tmp_path):
    runner = CliRunner()
    words = [word for text in OVERRIDES["promp"] for word in ("--set", text)]
    printed = runner.invoke(app, ["config", "promp", ENV, *words, "--set", "total_env_steps=1080"])
    (tmp_path / "mine.toml").write_text(printed.output)
    command = ["train", "promp", ENV, "--config", str(tmp_path / "mine.toml"), "--no-progress"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "x")])
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "x/metrics.jsonl").read_bytes() == (seeds[0] / "metrics.jsonl").read_bytes()
    (tmp_path / "mine.toml").write_text("gamma = ")
    refused = runner.invoke(app, [*command, "--out", str(tmp_path / "y")])
    assert "cannot be read as a configuration" in str(refused.exception)
    assert not (tmp_path / "y").exists()
