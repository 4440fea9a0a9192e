"""New families on the bodies and objectives there are: one specification is enough, and a misfit is named."""

import numpy as np
import pytest

import metarl_envs
from metarl_envs import SpecError, cli
from metarl_envs.bodies import BODIES, body_class
from metarl_envs.families import specs
from metarl_envs.simulation.objectives import OBJECTIVES

pytestmark = pytest.mark.usefixtures("in_empty_folder")

FORMS = [(name, form) for name, cls in OBJECTIVES.items() for form in cls.task_forms]
PLANAR = ("half_cheetah", "hopper", "walker2d")
"""Bodies whose tracked point moves along x alone."""
NEEDED = {"move_box_ball": ("box_x", "box_y")}
"""What a body's tasks must have, whatever the objective."""

SPECIFICATION = """
title = "A variation"
summary = "A variation."
body = "{body}"
objective = "{objective}"
horizon = 30
{options}
[parameters]
names = {names}
units = {units}
low = {low}
high = {high}
[distribution]
kind = "uniform"
low = {low}
high = {high}
[table]
rule = "philox"
[splits.train]
count = 6
[splits.validation]
count = 3
[splits.test]
count = 3
[[provenance]]
variant = "none"
same = "nothing"
differs = "everything"
[[history]]
version = "v0"
change = "First version."
"""


def specification(body, objective, names, options=""):
    n = len(names)
    return SPECIFICATION.format(
        body=body,
        objective=objective,
        names=list(names),
        units=["1"] * n,
        low=[0.5] * n,
        high=[1.5] * n,
        options=options,
    ).replace("'", '"')


@pytest.fixture
def write(spec_folder):
    """Writes a specification as a new family's, and returns the family."""

    def call(*arguments):
        (spec_folder / "MetaNew-Variation-v0.toml").write_text(specification(*arguments))
        specs.registered_ids.cache_clear()
        specs._family.cache_clear()
        return metarl_envs.family("MetaNew-Variation-v0")

    return call


def freeze(family):
    return cli.run(cli.app, ["tasks", "freeze", family.id])


def run_a_little(family):
    """Steps, and returns the task-dependent end of it per simulation."""
    envs = metarl_envs.MetaVectorEnv(family, 3, num_threads=1)
    envs.reset(seed=0)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, *envs.action_space.shape)):
        observation, reward, *_ = envs.step(action)
    assert np.isfinite(observation).all()
    assert np.isfinite(reward).all()
    envs.close()
    return observation, reward


@pytest.mark.long
@pytest.mark.parametrize("body", BODIES)
def test_one_file_is_a_variation_of_every_body(write, capsys, body):
    """The files that CONTRIBUTING describes, frozen and run."""
    objective, names = ("velocity", ("velocity",)) if body in PLANAR else ("goal", ("goal_x", "goal_y"))
    family = write(body, objective, (*names, *NEEDED.get(body, ())))
    assert freeze(family) == 0, capsys.readouterr().err
    run_a_little(family)
    assert cli.run(cli.app, ["tasks", "verify", family.id]) == 0


@pytest.mark.long
@pytest.mark.parametrize(("objective", "form"), FORMS)
@pytest.mark.parametrize("body", ["hopper", "half_cheetah_short", "ant", "jaco"])
def test_every_objective_on_bodies_of_one_to_three_coordinates(write, capsys, body, objective, form):
    coordinates = 1 if body == "hopper" else 2 if body == "ant" else 3
    names = form or (("mass_torso",) if body == "hopper" else ("x",))
    family = write(body, objective, names)
    fits = OBJECTIVES[objective].task_forms[form] <= coordinates and (form or body == "hopper")
    if fits:
        assert freeze(family) == 0, capsys.readouterr().err
        run_a_little(family)
        return
    assert freeze(family) == 2
    said = capsys.readouterr().err
    assert "MetaNew-Variation-v0.toml: " in said
    assert "parameters.names" in said
    assert repr(objective) in said
    assert ("coordinates" in said) == bool(form)


def test_a_task_that_is_partly_physics_and_partly_the_objectives(write):
    """Each takes the parameters of its names, in whatever order the specification has them."""
    names = ("friction_slide_floor", "velocity", "mass_torso")
    family = write("hopper", "velocity", names)
    freeze(family)
    envs = metarl_envs.MetaVectorEnv(family, 2, num_threads=1)
    tasks = [metarl_envs.Task(family.id, "train", -1, (0.5, 1.0, m)) for m in (0.5, 1.0)]
    envs.set_tasks(tasks)
    torso, floor = envs._core.body.model.body("torso").id, envs._core.body.model.geom("floor").id
    engine = envs._core.body.engine
    masses, frictions = engine.vary("body_mass"), engine.vary("geom_friction")
    assert masses[1, torso] == 2.0 * masses[0, torso]
    np.testing.assert_array_equal(np.delete(masses[0], torso), np.delete(masses[1], torso))
    assert (frictions[:, floor, 0] == 0.5 * envs._core.body._defaults["geom_friction"][floor, 0]).all()
    _, _ = envs.reset(seed=[3, 3])
    _, reward, _, _, info = envs.step(np.zeros(envs.action_space.shape))
    np.testing.assert_array_equal(info["reward_velocity"], -np.abs(info["x_velocity"] - 1.0))
    np.testing.assert_array_equal(reward, info["reward_velocity"])


def test_a_dynamics_needs_its_parameter(write, capsys):
    options = '[body_options]\ndynamics = "crippled"'
    family = write("ant_short", "velocity", ("velocity",), options)
    assert freeze(family) == 2
    assert "'velocity_y' for the objective 'velocity', and 'crippled' for the body" in capsys.readouterr().err
    family = write("ant_short", "velocity", ("crippled", "velocity"), options)
    assert freeze(family) == 0
    run_a_little(family)


@pytest.mark.parametrize(
    ("body", "objective", "names", "said"),
    [
        ("half_cheetah", "velocity", ("velocty",), ("'velocity'", "did you mean 'velocity'?")),
        ("half_cheetah", "velocity", ("velocity", "wind"), ("'velocity'", "'wind'")),
        ("half_cheetah", "direction", ("angle",), ("'direction'", "'angle'")),
        ("half_cheetah", "forward", ("speed",), ("nothing for the objective 'forward'", "'speed'")),
        ("ant", "goal", ("goal_x",), ("'goal_x', 'goal_y'",)),
        ("ant", "goal", ("goal_x", "goal_y", "mass_torso"), ("'mass_torso'",)),
        ("hopper", "forward", ("mas_torso",), ("any of 'mass_world'", "did you mean 'mass_torso'?")),
        ("move_box_ball", "on_target", ("target_x", "target_y"), ("'box_x', 'box_y' for the body",)),
        ("hopper", "goal", ("goal_x", "goal_y"), ("compares 2 coordinates", "reports 1")),
        ("half_cheetah", "velocity", ("velocity_x", "velocity_y"), ("compares 2 coordinates", "reports 1")),
    ],
)
def test_a_misfit_is_refused_with_file_key_and_what_is_allowed(
    write, spec_folder, body, objective, names, said
):
    family = write(body, objective, names)
    before = sorted(p for p in spec_folder.rglob("*"))
    checksums = (spec_folder / "checksums.json").read_bytes()
    assert freeze(family) == 2
    assert sorted(p for p in spec_folder.rglob("*")) == before
    assert (spec_folder / "checksums.json").read_bytes() == checksums
    task = metarl_envs.Task(family.id, "train", -1, tuple(1.0 for _ in names))
    with pytest.raises(SpecError, match=r"MetaNew-Variation-v0\.toml: .*parameters\.names") as caught:
        metarl_envs.MetaEnv(family, task=task)
    for words in said:
        assert words in str(caught.value)


def test_a_repeated_parameter_is_refused(write):
    with pytest.raises(SpecError, match=r"parameters\.names must not repeat a name"):
        write("hopper", "forward", ("mass_torso", "mass_torso"))


def test_every_body_names_what_it_reads_of_a_task():
    """Each parameter that the shipped families have is one that their objective or their body reads."""
    for family in map(metarl_envs.family, metarl_envs.registered_ids()):
        core = metarl_envs.MetaEnv(family)._core
        assert isinstance(core.body, body_class(family.body))
        part = (*core.assembly.body_part.sources, *core.assembly.objective_part.sources)
        assert sorted(part) == list(range(len(family.parameter_names)))
        core.close()
