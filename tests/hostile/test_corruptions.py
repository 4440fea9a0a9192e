"""Every file of a run directory, damaged in every way: a clear refusal, or the same end, bit for bit."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_run import assert_same_outcome
from test_run_directories import CLEAR

from metarl_agents import resume

pytestmark = pytest.mark.long
CASES = 300
SEED = 0


def flip(path, g, position):
    content = bytearray(path.read_bytes() or b"\0")
    content[position] ^= 1 << int(g.integers(8))
    path.write_bytes(content)


def digit(path, g, _):
    """Another digit for a random one, as far as there are any: what stays well-formed."""
    content = bytearray(path.read_bytes())
    places = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if places:
        place = places[int(g.integers(len(places)))]
        content[place] = 48 + (content[place] - 48 + int(g.integers(1, 10))) % 10
    path.write_bytes(content)


def directory(path, g, _):
    path.unlink()
    path.mkdir()


def pipe(path, g, _):
    path.unlink()
    os.mkfifo(path)


def device(path, g, _):
    path.unlink()
    path.symlink_to("/dev/zero")


WAYS = {
    "first byte": lambda path, g, size: flip(path, g, 0),
    "last byte": lambda path, g, size: flip(path, g, max(0, size - 1)),
    "any byte": lambda path, g, size: flip(path, g, int(g.integers(max(1, size)))),
    "another byte": lambda path, g, size: flip(path, g, int(g.integers(max(1, size)))),
    "a digit": digit,
    "another digit": digit,
    "a digit more": digit,
    "half": lambda path, g, size: path.write_bytes(path.read_bytes()[: size // 2]),
    "all but a byte": lambda path, g, size: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path, g, size: path.write_bytes(b""),
    "longer": lambda path, g, size: path.write_bytes(path.read_bytes() + g.bytes(20)),
    "zeros": lambda path, g, size: path.write_bytes(bytes(size)),
    "noise": lambda path, g, size: path.write_bytes(g.bytes(size)),
    "twice": lambda path, g, size: path.write_bytes(path.read_bytes() * 2),
    "missing": lambda path, g, size: path.unlink(),
    "a directory": directory,
    "a pipe": pipe,
    "a device": device,
}


def cases(folder):
    """The number of each case, its file and the way to damage it."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    found = [(file, way) for file in files for way in WAYS]
    return [(i, *found[i % len(found)]) for i in range(max(CASES, len(found)))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_refused_or_the_same(every, whole, interrupted, tmp_path):
    refused, continued, wrong = [], [], []
    chosen = cases(interrupted)[::every]
    for number, file, way in chosen:
        g = np.random.default_rng([SEED, number])
        copy = Path(shutil.copytree(interrupted, tmp_path / "copy"))
        WAYS[way](copy / file, g, (interrupted / file).stat().st_size)
        case = f"{file}: {way} (case {number} of seed {SEED})"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                finished = resume(copy, progress=False).finished
        except CLEAR:
            refused.append(case)
        except BaseException as error:
            wrong.append(f"{case}: {error!r}")
        else:
            try:
                assert finished
                assert_same_outcome(copy, whole)
                continued.append(case)
            except AssertionError:
                wrong.append(f"{case}: another end")
        shutil.rmtree(copy)
    print(f"{len(refused)} refused, {len(continued)} with the same end")
    assert not wrong, "\n".join(wrong)
    assert len(refused) + len(continued) == len(chosen) >= CASES // every
    assert refused
    assert continued  # files that decide nothing
