"""Cache of what is computed from a tensor's contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class TensorCache:
    """Cache of values computed from a tensor's contents, valid while its storage is unchanged.

    Reading a filter from a GPU synchronizes with the device, so it must not happen in every call.
    """

    def __init__(self):
        self._values: dict[tuple, tuple[StorageWeakRef | None, Any]] = {}

    def get(self, tensor: torch.Tensor | None, key: tuple, compute: Callable[[], Any]) -> Any:
        """Return the cached result for this tensor and key, or `compute()` it."""
        storage = None
        if tensor is not None:
            storage = StorageWeakRef(tensor.untyped_storage())
            layout = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
            # While the weak reference lives, no other storage gets this address.
            version = 0 if tensor.is_inference() else tensor._version
            key = (storage.cdata, layout, tensor.dtype, version, *key)
        if key not in self._values:
            value = compute()
            self._values = {k: v for k, v in self._values.items() if not (v[0] and v[0].expired())}
            self._values[key] = (storage, value)
        return self._values[key][1]
