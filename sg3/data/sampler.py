"""Infinite sampler with local reshuffling (REFERENCE.md §4.10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class ShuffleSampler:
    """Infinite indices: cycles through a shuffled list and reshuffles it behind the position.

    After each index is returned, it is swapped with a random one at most half an epoch back, so
    every image comes about once per epoch and epochs differ. All ranks draw the same swaps and
    take every `replicas`-th index, so they share one state, which also fits other world sizes.

    Args:
        size: number of images.
        seed: random seed.
        rank: index of this process.
        replicas: number of processes (world size).
    """

    def __init__(self, size: int, seed: int = 0, rank: int = 0, replicas: int = 1):
        if size < 1:
            raise ValueError(f"size: got {size}, expected at least 1")
        self.rank, self.replicas = rank, replicas
        self._random = np.random.RandomState(seed)
        self._order = np.arange(size)
        self._random.shuffle(self._order)
        self._window = int(np.rint(size * 0.5))
        self._position = 0

    def take(self, count: int) -> list[int]:
        """Return the next `count` indices of this rank."""
        return self.of_rank(self.take_all(count * self.replicas))

    def of_rank(self, indices: list[int]) -> list[int]:
        """Return this rank's part of indices from `take_all`."""
        return indices[self.rank :: self.replicas]

    def take_all(self, count: int) -> list[int]:
        """Return the next `count` indices of all ranks together; a multiple of `replicas`."""
        assert count % self.replicas == 0
        taken: list[int] = []
        order, size = self._order, self._order.size
        for position in range(self._position, self._position + count):
            i = position % size
            taken.append(int(order[i]))
            if self._window >= 2:
                j = (i - self._random.randint(self._window)) % size
                order[i], order[j] = order[j], order[i]
        self._position += count
        return taken

    def state(self) -> dict:
        """Return the position as plain numbers and tensors, for `load_state`."""
        generator: Any = self._random.get_state()  # ("MT19937", keys, position, …)
        keys, position = generator[1:3]
        return {
            "order": torch.from_numpy(self._order.astype(np.int32)),
            "position": self._position,
            "random_keys": torch.from_numpy(keys.astype(np.int64)),
            "random_position": int(position),
        }

    def load_state(self, state: dict) -> None:
        """Resume exactly at `state`. Raises ValueError if the dataset has a different size."""
        order = torch.as_tensor(state["order"]).to(torch.int64, copy=True).numpy()
        if order.size != self._order.size:
            raise ValueError(
                f"data: the saved run saw {order.size} images, the data now has "
                f"{self._order.size}; resume with the same data (and, if files are damaged, the "
                "same `cache`)"
            )
        self._order, self._position = order, state["position"]
        keys = torch.as_tensor(state["random_keys"]).numpy().astype(np.uint32)
        self._random.set_state(("MT19937", keys, state["random_position"], 0, 0.0))
