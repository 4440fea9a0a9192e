"""Protocols: what they hold, refuse and round-trip."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_envs.evaluation import (
    PROTOCOLS,
    Protocol,
)


@given(
    st.builds(
        lambda updates, per, between, **rest: Protocol(
            adaptation_episodes=updates * per, episodes_per_update=per, scored_between=between * per, **rest
        ),
        st.integers(0, 5),
        st.integers(1, 30),
        st.integers(0, 2),
        split=st.sampled_from(["train", "validation", "test", "ood"]),
        scored_episodes=st.integers(1, 50),
        deterministic=st.booleans(),
        seeds=st.lists(st.integers(0, 2**40), min_size=1, unique=True).map(tuple),
        num_tasks=st.none() | st.integers(1, 100),
        name=st.text(),
    )
)
@settings(deadline=None)
def test_protocol_round_trips_through_json(protocol):
    assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_presets_carry_the_papers_numbers():
    shapes = {
        name: (p.adaptation_episodes, p.scored_episodes, p.episodes_per_update, p.deterministic)
        for name, p in PROTOCOLS.items()
    }
    assert shapes == {
        "pearl": (2, 1, 1, True),
        "pearl_sparse": (19, 1, 1, True),
        "mql": (1, 2, 1, True),
        "mql_1200": (6, 2, 1, True),
        "mql_800": (1, 2, 1, True),
        "maml": (60, 20, 20, False),
        "promp": (20, 20, 20, False),
        "rl2": (1, 1, 1, False),
        "tesp": (100, 25, 25, False),
        "promp_2": (40, 20, 20, False),
        "meta_sgd": (75, 25, 25, False),
        "iwpa": (37, 3, 1, False),
        "slbo": (80, 20, 20, False),
        "slbo_40": (160, 40, 40, False),
        "slbo_warm_up": (0, 20, 1, False),
    }
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert len(protocol.source) > 40
        assert Protocol.from_dict(protocol.to_dict()) == protocol


def test_scored_episodes_lie_between_the_batches_of_adaptation():
    protocol = Protocol(adaptation_episodes=4, episodes_per_update=2, scored_between=2, scored_episodes=3)
    assert protocol.num_episodes == 11
    assert [protocol.adapting(n) for n in range(11)] == [
        False, False, True, True, False, False, True, True, False, False, False,
    ]  # fmt: skip
    plain = Protocol(adaptation_episodes=4, episodes_per_update=2, scored_episodes=2)
    assert [plain.adapting(n) for n in range(6)] == [True] * 4 + [False] * 2


def test_numpy_integers_become_plain_ones():
    protocol = Protocol(adaptation_episodes=np.int64(3), seeds=np.array([4, 5]))
    assert json.loads(json.dumps(protocol.to_dict()))["seeds"] == [4, 5]
    assert protocol == Protocol(adaptation_episodes=3, seeds=(4, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adaptation_episodes": -1}, "adaptation_episodes must hold integers of at least 0"),
        ({"adaptation_episodes": 1.5}, "adaptation_episodes must hold integers"),
        ({"scored_episodes": 0}, "scored_episodes must hold integers of at least 1"),
        ({"scored_episodes": True}, "scored_episodes must hold integers"),
        ({"adaptation_episodes": 3, "episodes_per_update": 2}, "multiple of episodes_per_update"),
        (
            {"adaptation_episodes": 2, "scored_between": 1, "episodes_per_update": 2},
            "scored_between must be a",
        ),
        ({"num_tasks": 0}, "num_tasks must hold integers of at least 1"),
        ({"seeds": ()}, "one or more different integers"),
        ({"seeds": (1, 1)}, "one or more different integers"),
        ({"seeds": (-1,)}, "seeds must hold integers of at least 0"),
        ({"seeds": "01"}, "seeds must be a sequence"),
        ({"seeds": 3}, "seeds must be a sequence"),
        ({"deterministic": "yes"}, "deterministic must be True or False"),
        ({"split": ""}, "split must name"),
        ({"name": 3}, "name must be a string"),
    ],
)
def test_protocol_refuses_what_it_cannot_mean(values, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**values)


def test_protocol_names_unknown_fields():
    with pytest.raises(ValueError, match="unknown protocol fields episodes"):
        Protocol.from_dict({"episodes": 3})
