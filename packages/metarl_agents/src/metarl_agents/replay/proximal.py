"""The proximal term: the squared distance of a module's parameters from earlier values."""

from torch import Tensor, nn


class Anchor:
    """Stores the present parameters of a module.

    Args:
        module: the module, whose parameters are copied.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters = list(module.parameters())
        self.origin = [parameter.detach().clone() for parameter in self.parameters]

    def distance(self) -> Tensor:
        """Sum of squared differences over all parameters, with gradient 2 (theta - origin)."""
        pairs = zip(self.parameters, self.origin, strict=True)
        squares: list[Tensor] = [(parameter - origin).square().sum() for parameter, origin in pairs]
        return sum(squares[1:], squares[0])
