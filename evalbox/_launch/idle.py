"""The slots of a launcher that serve no run, whatever their number at the same cost."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from evalbox._launch.kit import Kit
from evalbox._launch.slot import Slot


class IdleSlots:
    """In the order in which they were last used.

    One that has the files or the interpreter of a kit serves runs of that only; any
    other will do for all the rest, and has the key 0.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[Slot, int] = OrderedDict()
        self._by_key: defaultdict[int, dict[Slot, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, slot: object) -> bool:
        return slot in self._keys

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._keys)

    def add(self, slot: Slot) -> None:
        key = slot.ruleset if slot.has_own_kit else 0
        self._keys[slot] = key
        self._by_key[key][slot] = None

    def take(self, kit: Kit) -> Slot | None:
        """The one that can serve a kit and was used last."""
        key = kit.serial if kit.has_own_slots else 0
        slots = self._by_key.get(key)
        if not slots:
            return None
        slot, _ = slots.popitem()
        del self._keys[slot]
        if not slots:
            del self._by_key[key]
        return slot

    def take_oldest(self) -> Slot:
        """The one that nobody has needed for the longest time; there must be one."""
        slot = next(iter(self._keys))
        self.discard(slot)
        return slot

    def discard(self, slot: Slot) -> None:
        key = self._keys.pop(slot, None)
        if key is None:
            return
        del self._by_key[key][slot]
        if not self._by_key[key]:
            del self._by_key[key]

    def clear(self) -> None:
        self._keys.clear()
        self._by_key.clear()
