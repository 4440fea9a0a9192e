"""Evaluation that is independent of agent libraries: protocols, the trial loop, statistics, reports, plots.

from metarl_envs.evaluation import PROTOCOLS, evaluate, plot_adaptation, summarise

report = evaluate(my_agent, "MetaPoint-Goal-v0", PROTOCOLS["pearl"])
print(summarise(report))
report.to_json("result.json")
plot_adaptation(report, "result.png")
"""

from metarl_envs.evaluation.agents import (
    Agent,
    RandomAgent,
    ScriptedOracle,
    Transition,
    Trial,
    ZeroAgent,
)
from metarl_envs.evaluation.comparison import Comparison, compare, paired_difference
from metarl_envs.evaluation.plot import plot_adaptation
from metarl_envs.evaluation.pooling import Pooled, Result, pooled
from metarl_envs.evaluation.protocol import PROTOCOLS, Protocol
from metarl_envs.evaluation.provenance import Provenance
from metarl_envs.evaluation.report import Report
from metarl_envs.evaluation.runner import evaluate, reference_reports
from metarl_envs.evaluation.scripted import register_scripted_oracle, scripted_oracle
from metarl_envs.evaluation.speed import curve_area, curve_means, episodes_until
from metarl_envs.evaluation.statistics import (
    Interval,
    iqm,
    normalised,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
    stratified_bootstrap_interval,
    task_bootstrap_interval,
)
from metarl_envs.evaluation.summary import AdaptationCurve, Estimate, Summary, adaptation_curve, summarise
from metarl_envs.evaluation.unfinished import Unfinished

__all__ = [
    "PROTOCOLS",
    "AdaptationCurve",
    "Agent",
    "Comparison",
    "Estimate",
    "Interval",
    "Pooled",
    "Protocol",
    "Provenance",
    "RandomAgent",
    "Report",
    "Result",
    "ScriptedOracle",
    "Summary",
    "Transition",
    "Trial",
    "Unfinished",
    "ZeroAgent",
    "adaptation_curve",
    "compare",
    "curve_area",
    "curve_means",
    "episodes_until",
    "evaluate",
    "iqm",
    "normalised",
    "paired_difference",
    "performance_profile",
    "plot_adaptation",
    "pooled",
    "probability_of_improvement",
    "reference_reports",
    "register_scripted_oracle",
    "scripted_oracle",
    "stratified_bootstrap",
    "stratified_bootstrap_interval",
    "summarise",
    "task_bootstrap_interval",
]
