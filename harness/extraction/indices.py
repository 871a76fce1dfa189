"""Indices that every layer asks for again, each on its own device."""

from __future__ import annotations

from torch import Tensor, device


class Indices:
    """A tensor of indices, copied to a device once: a copy a layer would let a GPU run dry."""

    def __init__(self, tensor: Tensor) -> None:
        self._copies = {tensor.device: tensor}
        self._first = tensor

    def on(self, where: device) -> Tensor:
        """Return the indices on a device."""
        if where not in self._copies:
            self._copies[where] = self._first.to(where)
        return self._copies[where]
