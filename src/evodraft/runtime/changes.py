"""Is a model still the one whose weights were read? Weights that were written to in place are taken over; hooks and
other parameters that came later are not, and must not go unnoticed.

Torch counts writes and modules hold their hooks, so nothing is compared number by number. Does not know what a model
computes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from evodraft.errors import UnsupportedModelError
from evodraft.runtime.unmodified import is_intercepted


class Changes:
    """Watches tensors.

    >>> weight = torch.zeros(2)
    >>> changes = Changes([weight])
    >>> changes.found(), weight.add_(1.0) is weight, changes.found(), changes.found()
    (False, True, True, False)
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        # tensors born in inference mode have no count, and cannot be written to outside of it
        self._tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self._seen = self._count()

    def found(self) -> bool:
        """Whether any was written to since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen != before

    def _count(self) -> int:
        return sum(tensor._version for tensor in self._tensors)


class Standing:
    """What a model was made of when its weights were read.

    >>> layer = torch.nn.Linear(2, 2)
    >>> standing = Standing(layer)
    >>> standing.check()
    >>> handle = layer.register_forward_hook(lambda *_: None)
    >>> standing.check()
    Traceback (most recent call last):
    evodraft.errors.UnsupportedModelError: hooks or another forward were given to the model after it was loaded...
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = list(model.modules())
        self._places = [
            (module, name, parameter.data_ptr())
            for module in self._modules
            for name, parameter in module.named_parameters(recurse=False)
        ]

    def check(self) -> None:
        """Raises UnsupportedModelError if the weights alone do not tell any more what the model computes."""
        if any(is_intercepted(module) for module in self._modules):
            raise _outdated("hooks or another forward were given to the model")
        if any(_address(module._parameters[name]) != place for module, name, place in self._places):
            raise _outdated("parameters of the model were moved or replaced")


def _address(parameter: torch.nn.Parameter | None) -> int | None:
    return None if parameter is None else parameter.data_ptr()


def _outdated(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{what} after it was loaded, and its layers are computed without its modules; undo it, load it anew, or take "
        "runtime='transformers', which calls the modules"
    )
