"""The endless, locally reshuffling order in which images are shown (REFERENCE.md §4.10)."""

from __future__ import annotations

import numpy as np
import torch


class ShuffleSampler:
    """Walks a shuffled list for ever and keeps swapping items within half a lap behind it.

    Every image comes about once per lap, and laps differ from one another without ever
    reshuffling the whole list. With several replicas each draws the same swaps and takes every
    `replicas`-th item; all of them are at the same place between calls, so that one's state
    serves all, and other numbers of replicas too. `state()` and `load_state()` continue a walk
    exactly.
    """

    def __init__(self, size: int, seed: int = 0, rank: int = 0, replicas: int = 1):
        if size < 1:
            raise ValueError(f"size: got {size}, expected at least one image")
        self.rank, self.replicas = rank, replicas
        self._random = np.random.RandomState(seed)
        self._order = np.arange(size)
        self._random.shuffle(self._order)
        self._window = int(np.rint(size * 0.5))
        self._position = 0

    def take(self, count: int) -> list[int]:
        """The next `count` indices for this rank."""
        return self.mine(self.take_all(count * self.replicas))

    def mine(self, indices: list[int]) -> list[int]:
        """This rank's share of what `take_all` gave."""
        return indices[self.rank :: self.replicas]

    def take_all(self, count: int) -> list[int]:
        """The next `count` indices of all ranks together; a multiple of `replicas`."""
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
        """Everything needed to go on, as plain numbers and tensors."""
        _, keys, position, _, _ = self._random.get_state()
        return {
            "order": torch.from_numpy(self._order.astype(np.int32)),
            "position": self._position,
            "random_keys": torch.from_numpy(keys.astype(np.int64)),
            "random_position": int(position),
        }

    def load_state(self, state: dict) -> None:
        """Continue where `state()` was taken. Raises ValueError for a data set of another size."""
        order = torch.as_tensor(state["order"]).to(torch.int64, copy=True).numpy()
        if order.size != self._order.size:
            raise ValueError(
                f"data: the saved run saw {order.size} images, the data now has "
                f"{self._order.size}; resume with the same data (and, where files are damaged, "
                "the same --cache)"
            )
        self._order, self._position = order, state["position"]
        keys = torch.as_tensor(state["random_keys"]).numpy().astype(np.uint32)
        self._random.set_state(("MT19937", keys, state["random_position"], 0, 0.0))
