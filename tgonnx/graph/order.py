"""Topological order of numbered things that need each other."""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set


def topological_order(needs: Sequence[Set[int]]) -> list[int]:
    """Kahn's algorithm, smallest number first; what is in a cycle, or needs one, is left out."""
    users: list[list[int]] = [[] for _ in needs]
    for index, need in enumerate(needs):
        for other in need:
            users[other].append(index)
    waiting = [len(need) for need in needs]
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    return order


def find_cycle(needs: Sequence[Set[int]], stuck: Set[int]) -> list[int]:
    """One cycle, walked from user to producer: everything in `stuck` needs something that is."""
    path: list[int] = []
    position: dict[int, int] = {}
    index = min(stuck)
    while index not in position:
        position[index] = len(path)
        path.append(index)
        index = min(needs[index] & stuck)
    return path[position[index] :][::-1]
