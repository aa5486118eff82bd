"""The endless, locally reshuffling order in which images are shown (FACTS 4.10)."""

from __future__ import annotations

import numpy as np


class ShuffleSampler:
    """Walks a shuffled list for ever and keeps swapping items within half a lap behind it.

    Every image comes once per lap at first; later laps differ from one another without ever
    reshuffling the whole list. With several replicas each draws the same swaps and takes every
    `replicas`-th item. `state()` and `load_state()` continue a walk exactly.
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
        taken: list[int] = []
        order, size = self._order, self._order.size
        while len(taken) < count:
            i = self._position % size
            if self._position % self.replicas == self.rank:
                taken.append(int(order[i]))
            if self._window >= 2:
                j = (i - self._random.randint(self._window)) % size
                order[i], order[j] = order[j], order[i]
            self._position += 1
        return taken

    def state(self) -> dict:
        """Everything needed to go on, as plain numbers and lists."""
        _, keys, position, _, _ = self._random.get_state()
        return {
            "order": self._order.tolist(),
            "position": self._position,
            "random_keys": keys.tolist(),
            "random_position": int(position),
        }

    def load_state(self, state: dict) -> None:
        """Continue where `state()` was taken. Raises ValueError for a data set of another size."""
        if len(state["order"]) != self._order.size:
            raise ValueError(
                f"data: the saved run saw {len(state['order'])} images, the data now has "
                f"{self._order.size}; resume with the same data"
            )
        self._order = np.array(state["order"])
        self._position = state["position"]
        keys = np.array(state["random_keys"], dtype=np.uint32)
        self._random.set_state(("MT19937", keys, state["random_position"], 0, 0.0))
