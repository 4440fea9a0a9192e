"""What computes matrix products: the trial at the start, where it holds, what a run keeps of it."""

import json

import pytest
import torch
from test_run import AGENTS, STEPS, assert_same_outcome, interrupt_after, tiny
from torch.utils.tensorboard import SummaryWriter

from metarl_agents import resume
from metarl_agents.common import matrix_products
from metarl_agents.common.config import ConfigError, ReplayConfig
from metarl_agents.common.matrix_products import choose_products, products_by, reason_against_onednn
from metarl_agents.run import train
from metarl_agents.run.assembly import Assembly
from metarl_agents.run.directory import RunError, read_description, recorded_products
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.rollouts import RealSimulations

SETTING = torch.backends.mkldnn.matmul


def pretend(monkeypatch, compute):
    """Products by oneDNN become what `compute` returns."""

    def product(a, b, name):
        return a @ b if name == "default" else compute(a, b)

    monkeypatch.setattr(matrix_products, "product", product)


def exact(a, b):
    return (a.double() @ b.double()).float()


def tf32(a, b):
    """Factors with 10 bits after the first."""
    cut = lambda x: (x.view(torch.int32) & ~0x1FFF).view(torch.float32)  # noqa: E731
    return cut(a) @ cut(b)


def test_the_trial_takes_another_float32_path_only(monkeypatch):
    pretend(monkeypatch, exact)
    assert reason_against_onednn() is None
    assert choose_products("auto", "cpu") == choose_products("onednn", "cpu") == "onednn"
    assert choose_products("default", "cpu") == "default"
    assert choose_products("auto", "cuda") == "default"
    with pytest.raises(ConfigError, match="oneDNN is for the CPU, and the networks are on cuda"):
        choose_products("onednn", "cuda")
    pretend(monkeypatch, lambda a, b: a @ b)
    assert "gives the same products" in reason_against_onednn()


@pytest.mark.long
@pytest.mark.parametrize("compute", [lambda a, b: (a.bfloat16() @ b.bfloat16()).float(), tf32])
def test_the_trial_refuses_a_path_of_fewer_bits(compute, monkeypatch):
    pretend(monkeypatch, compute)
    assert "has less than float32 accuracy" in reason_against_onednn()
    assert choose_products("auto", "cpu") == "default"
    with pytest.raises(ConfigError, match="cannot be 'onednn': oneDNN has less than float32 accuracy"):
        choose_products("onednn", "cpu")
    # One product of many, and one not-a-number.
    pretend(monkeypatch, lambda a, b: exact(a, b) if len(a) > 1000 else compute(a, b))
    assert choose_products("auto", "cpu") == "default"
    pretend(monkeypatch, lambda a, b: exact(a, b) * torch.nan)
    assert choose_products("auto", "cpu") == "default"


def test_a_pytorch_without_the_setting_has_the_default(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_products("auto", "cpu") == "default"
    with pytest.raises(ConfigError, match="has no oneDNN"):
        choose_products("onednn", "cpu")
    with products_by("onednn"):
        assert SETTING.fp32_precision == "none"


def test_the_setting_is_put_back():
    before = SETTING.fp32_precision
    within = []

    def fail():
        within.append(SETTING.fp32_precision)
        raise KeyError

    with pytest.raises(KeyError), products_by("onednn"):
        fail()
    assert within == ["bf16"]
    assert SETTING.fp32_precision == before
    with products_by("default"):
        assert SETTING.fp32_precision == before


def test_here_the_choice_is_right_and_stays():
    """Whatever this machine is: what is chosen is as exact as float32."""
    name = choose_products("auto", "cpu")
    assert choose_products("auto", "cpu") == name
    a, b = torch.randn(512, 300), torch.randn(300, 300)
    assert matrix_products.relative_error(matrix_products.product(a, b, name), a.double() @ b.double()) < 1e-6


@pytest.mark.long
@pytest.mark.parametrize("agent", AGENTS)
def test_it_holds_in_gradient_steps_and_not_in_acting(agent, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "choose_products", lambda wanted, device: "onednn")
    seen = {"learning": set(), "acting": set()}

    def watch(owner, name, what="learning"):
        original = getattr(owner, name)

        def watched(*arguments, **named):
            seen[what].add(SETTING.fp32_precision)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    watch(torch.autograd, "backward")
    watch(torch.autograd, "grad")
    # Of slbo, the products of the dynamics are large; the rest is as small as acting.
    watch(Dynamics, "loss_and_gradient")
    watch(RealSimulations, "advance", "acting")
    trainer = Assembly.trainer

    def watched(self, *arguments):
        policy, original = self.algorithm.policy, self.algorithm.policy.act

        def seen_act(*arguments, **named):
            seen["acting"].add(SETTING.fp32_precision)
            return original(*arguments, **named)

        policy.act = seen_act
        return trainer(self, *arguments)

    monkeypatch.setattr(Assembly, "trainer", watched)
    tiny(tmp_path / "run", agent, steps=80 * 20 + 180)
    assert seen["acting"] == {"none"}
    assert "bf16" in seen["learning"]
    # Agents that learn from trials also take gradients where they adapt, which is part of acting.
    if isinstance(read_description(tmp_path / "run")[1], ReplayConfig):
        assert seen["learning"] == {"bf16"}
    assert SETTING.fp32_precision == "none"


@pytest.mark.long
def test_a_run_records_it_and_keeps_it_when_resumed(tmp_path, monkeypatch, capsys):
    used = []
    original = Assembly.trainer

    def trainer(self, logger, save_checkpoint, products):
        used.append(products)
        return original(self, logger, save_checkpoint, products)

    monkeypatch.setattr(Assembly, "trainer", trainer)
    pretend(monkeypatch, exact)

    def start(name, *overrides):
        with monkeypatch.context() as patch:
            patch.setattr(SummaryWriter, "add_scalar", interrupt_after(4))
            assert not tiny(tmp_path / name, overrides=overrides, steps=STEPS).finished
        return json.loads((tmp_path / name / "versions.json").read_text())["matrix_products"]

    # Recorded, and not what the resuming machine would choose by itself.
    assert start("onednn") == "onednn"
    assert start("asked", "matrix_products=default") == "default"
    resume(tmp_path / "asked", progress=False)
    resume(tmp_path / "onednn", progress=False)
    assert used == ["onednn", "default", "default", "onednn"]
    tiny(tmp_path / "whole")
    assert_same_outcome(tmp_path / "onednn", tmp_path / "whole")

    # On a machine where it is not to be had, the run says what it does instead.
    used.clear()
    assert start("moved") == "onednn"
    pretend(monkeypatch, lambda a, b: a @ b)
    assert start("here") == "default"
    capsys.readouterr()
    assert resume(tmp_path / "moved").finished
    assert used == ["onednn", "default", "default"]
    sentence = "the run was started with oneDNN for matrix products, but oneDNN gives the same products"
    assert sentence in capsys.readouterr().err
    assert sentence in (tmp_path / "moved/log.txt").read_text()


def test_a_run_that_does_not_say_it_has_the_default_and_nonsense_is_refused(tmp_path):
    tiny(tmp_path / "run", steps=80 * 20 + 180)
    path = tmp_path / "run/versions.json"
    packages = json.loads(path.read_text())["packages"]
    path.write_text(json.dumps({"packages": packages}))
    assert recorded_products(tmp_path / "run") == "default"
    assert resume(tmp_path / "run", progress=False).finished
    path.write_text(json.dumps({"packages": packages, "matrix_products": "mkl"}))
    with pytest.raises(RunError, match="must be 'default' or 'onednn', not 'mkl'"):
        resume(tmp_path / "run", progress=False)
    path.unlink()
    with pytest.raises(RunError, match=r"versions.json cannot be read, so the run cannot be resumed"):
        resume(tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="matrix_products must be one of auto, onednn, default, not 'mkl'"):
        tiny(tmp_path / "other", overrides=["matrix_products=mkl"])
