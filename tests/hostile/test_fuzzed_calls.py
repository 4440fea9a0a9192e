"""Random calls of every environment; see `fuzzer.py`."""

import os
from pathlib import Path

import pytest
from fuzzer import Fuzzer

import metarl_envs

IDS = metarl_envs.registered_ids()
#: 20,000 calls in all; METARL_FUZZ_CALLS and METARL_FUZZ_SEED change that.
CALLS = 20_000
MANY = 1_000_000


def fuzz(env_id, calls, seed, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    share = -(-calls // (2 * len(IDS)))
    for num in (0, 3):
        Fuzzer(env_id, num, seed).run(share)
    assert not list(Path().iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
@pytest.mark.parametrize("env_id", IDS)
def test_random_calls(env_id, tmp_path, monkeypatch, capfd):
    fuzz(env_id, CALLS, 0, tmp_path, monkeypatch, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IDS)
def test_a_million_random_calls(env_id, tmp_path, monkeypatch, capfd):
    calls = int(os.environ.get("METARL_FUZZ_CALLS", MANY))
    seed = int(os.environ.get("METARL_FUZZ_SEED", 1))
    fuzz(env_id, calls, seed, tmp_path, monkeypatch, capfd)
