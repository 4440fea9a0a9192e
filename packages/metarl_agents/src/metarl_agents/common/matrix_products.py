"""The library for float32 matrix products in gradient steps.

On a CPU, PyTorch uses MKL. On a processor with AVX-512 but without bfloat16 units, oneDNN was measured
at twice the rate of MKL (180 to 230 against 93 to 96 GFLOP/s), with the same accuracy. PyTorch uses
oneDNN if rounding to bfloat16 is allowed; oneDNN then rounds only on processors with bfloat16 units.
Therefore this setting is used only if test products have float32 accuracy, and only in gradient steps,
because it makes the small products of acting slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metarl_agents.common.config import ConfigError

#: Rows, inner and outer width of the test products: a layer of PEARL's paper on its whole
#: meta-batch, the gradient of its weights, and a layer of a small preset.
SHAPES = ((4096, 300, 300), (300, 4096, 300), (512, 128, 128))
#: Largest root mean square error of a product, relative to that of its entries. On these shapes
#: float32 was measured at 2e-7 to 3e-7, and factors rounded to bfloat16 or TF32 at 2e-3 and 8e-4.
TOLERANCE = 1e-5


def _setting() -> Any:
    """PyTorch's setting, or None if it has none (before 2.9, or built without oneDNN)."""
    backend: Any = torch.backends.mkldnn
    return getattr(backend, "matmul", None) if backend.is_available() else None


@contextmanager
def products_by(name: str) -> Iterator[None]:
    """Context in which "onednn" or the "default" computes float32 products on the CPU."""
    setting = _setting()
    if name == "default" or setting is None:
        yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


def product(a_BI: Tensor, b_IO: Tensor, name: str) -> Tensor:
    """The product of two matrices, computed by "onednn" or the "default"."""
    with products_by(name):
        return a_BI @ b_IO


def relative_error(result_BO: Tensor, exact_BO: Tensor) -> float:
    """Root mean square of the difference, relative to that of the exact entries."""
    difference = (result_BO.double() - exact_BO).square().mean()
    return float((difference / exact_BO.square().mean()).sqrt())


def reason_against_onednn() -> str | None:
    """The reason why oneDNN cannot be used here, or None.

    It depends only on the machine and PyTorch; nothing is timed.
    """
    if _setting() is None:
        return "this PyTorch has no oneDNN for float32 matrix products"
    generator = torch.Generator().manual_seed(0)
    another_path = False
    for rows, inner, outer in SHAPES:
        a_BI = torch.randn(rows, inner, generator=generator)
        b_IO = torch.randn(inner, outer, generator=generator)
        tried = product(a_BI, b_IO, "onednn")
        error = relative_error(tried, a_BI.double() @ b_IO.double())
        if not error <= TOLERANCE:
            return (
                f"oneDNN has less than float32 accuracy on this processor (relative error {error:.1e} of a "
                f"product, at most {TOLERANCE:.0e} is allowed)"
            )
        another_path |= not torch.equal(tried, product(a_BI, b_IO, "default"))
    if not another_path:
        return "oneDNN gives the same products on this processor (PyTorch does not use it without AVX-512)"
    return None


def choose_products(wanted: str, device: str) -> str:
    """The library of a new run, "onednn" or "default", for the setting "auto", "onednn" or "default".

    Raises:
        ConfigError: when oneDNN is requested but cannot be used.
    """
    if wanted == "default":
        return "default"
    on_cpu = torch.device(device).type == "cpu"
    reason = reason_against_onednn() if on_cpu else f"oneDNN is for the CPU, and the networks are on {device}"
    if reason is None:
        return "onednn"
    if wanted == "onednn":
        raise ConfigError(f"matrix_products cannot be 'onednn': {reason}; use 'auto' or 'default'")
    return "default"
