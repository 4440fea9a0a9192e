"""Bad tasks and actions, and what their refusal must be, for the tests of contract 9."""

import dataclasses

import numpy as np
import pytest
from contract_helpers import IDS

import metarl_envs

KINDS = (ValueError, TypeError, RuntimeError)


def foreign(family_id):
    other = next(i for i in IDS if i != family_id)
    return metarl_envs.family(other).task("train", 0)


def refused(call, words):
    """Asserts that a call is refused by one of the three exceptions, in a sentence with these words."""
    with pytest.raises(KINDS) as caught:
        call()
    assert type(caught.value) in (*KINDS, metarl_envs.SpecError), type(caught.value)
    text = str(caught.value)
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in {text!r}"
    assert len(text.split()) >= 4, f"{text!r} is no sentence"


def bad_tasks(family_id):
    """Name -> (what is no task of this family's train split, words of the message)."""
    family = metarl_envs.family(family_id)
    count = len(family.tasks("train"))
    real = family.task("train", 1)
    altered = dataclasses.replace(real, parameters=tuple(x + 0.5 for x in real.parameters))
    size = len(real.parameters)
    return {
        "index too large": (count, (f"{count}", f"0 to {count - 1}")),
        "index far too large": (10**30, (f"0 to {count - 1}",)),
        "negative index": (-1, (f"0 to {count - 1}",)),
        "numpy index too large": (np.int64(count), (f"0 to {count - 1}",)),
        "bool": (True, ("integer",)),
        "float": (1.0, ("integer",)),
        "NaN": (float("nan"), ("integer",)),
        "text": ("1", ("integer",)),
        "foreign task": (foreign(family_id), (family_id, foreign(family_id).family)),
        "foreign dict": (foreign(family_id).to_dict(), (family_id, foreign(family_id).family)),
        "altered parameters": (altered, ("parameters", "-1")),
        "altered dict": (altered.to_dict(), ("parameters", "-1")),
        "altered index": (dataclasses.replace(real, index=count + 3), (f"0 to {count - 1}",)),
        "unknown split": (dataclasses.replace(real, split="tset"), ("'train'", "'test'")),
        "unknown split, off the table": (
            dataclasses.replace(real, split="tset", index=-1),
            ("'train'", "'test'"),
        ),
        "too many parameters": (
            dataclasses.replace(real, index=-1, parameters=(*real.parameters, 0.5)),
            (f"{size} finite", *family.parameter_names),
        ),
        "infinite parameter": (
            dataclasses.replace(real, index=-1, parameters=(float("inf"),) * size),
            ("finite",),
        ),
        "NaN parameter": (
            dataclasses.replace(real, index=-1, parameters=(float("nan"),) * size),
            ("finite",),
        ),
        "incomplete dict": ({"family": family_id, "split": "train", "index": 0}, ("parameters",)),
        "unknown key": ({**real.to_dict(), "colour": 1}, ("keys", "colour")),
        "dict with text as index": ({**real.to_dict(), "index": "first"}, ("integer",)),
        "dict with a fraction as index": ({**real.to_dict(), "index": 1.5}, ("integer",)),
        "dict with text as parameters": ({**real.to_dict(), "parameters": ["x"] * size}, ("number",)),
        "dict with a number as parameters": ({**real.to_dict(), "parameters": 3.0}, ("numbers",)),
    }


def bad_actions(shape):
    """Name -> (what is no action of this shape, words of the message)."""
    good = np.zeros(shape)
    nan, inf = good.copy(), good.copy()
    nan[..., -1] = np.nan
    inf[..., 0] = -np.inf
    return {
        "too long": (np.zeros((*shape[:-1], shape[-1] + 1)), (str(shape),)),
        "too short": (np.zeros((*shape[:-1], shape[-1] - 1)), (str(shape),)),
        "one number": (0.0, (str(shape),)),
        "one row too many": (good[None], (str(shape),)),
        "empty": ([], (str(shape),)),
        "nothing": (None, (str(shape),)),
        "NaN": (nan, ("finite",)),
        "infinity": (inf, ("finite",)),
        "word": ("forward", (str(shape),)),
        "words": (np.full(shape, "left").tolist(), ("numbers", str(shape))),
        "numbers as text": (np.full(shape, "0.5").tolist(), ("numbers", str(shape))),
        "ragged": ([[0.0], [0.0, 1.0]], ("numbers", str(shape))),
        "dict": ({"x": 1.0}, (str(shape),)),
    }


BAD_TASKS = tuple(bad_tasks(IDS[0]))
BAD_ACTIONS = tuple(bad_actions((2,)))
