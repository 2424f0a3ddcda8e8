"""The Merkle tree of RFC 9162 section 2.1, pure: hashes in, hashes out.

A *frontier* is all that appending needs: one hash for each set bit of the size. Proofs need hashes of complete
subtrees, which the caller provides as a `NodeReader`: `reader(level, index)` is the hash over the leaves
`index * 2**level` up to `(index + 1) * 2**level`. No database, no network, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

HASH_SIZE: Final = 32
LEAF_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"
# RFC 9162 section 2.1.1: the hash of an empty list is the hash of an empty string.
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

LEAF_BEGUN: Final = hashlib.sha256(LEAF_PREFIX)
"""The hash of a leaf before its entry: to be copied."""
_NODE_BEGUN: Final = hashlib.sha256(NODE_PREFIX)

NodeReader = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry. RFC 9162 section 2.1.1."""
    return hashlib.sha256(LEAF_PREFIX + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node. RFC 9162 section 2.1.1."""
    return hashlib.sha256(NODE_PREFIX + left + right).digest()


def pair_up(nodes: Sequence[bytes]) -> list[bytes]:
    """Return the parents of an even number of neighbouring nodes."""
    begin = _NODE_BEGUN.copy
    parents = []
    # A hash that has begun is copied: to make a new one costs more, and this is done for every event that is verified.
    for i in range(0, len(nodes) - 1, 2):
        parent = begin()
        parent.update(nodes[i] + nodes[i + 1])
        parents.append(parent.digest())
    return parents


class Frontier:
    """The right edge of a growing tree: its size and the roots of its complete subtrees."""

    __slots__ = ("_levels", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Take up a tree of `size` leaves; `hashes` are the roots of its complete subtrees, largest first.

        Raises:
            ValueError: the number or the length of the hashes does not fit the size.
        """
        if size < 0 or len(hashes) != size.bit_count() or any(len(one) != HASH_SIZE for one in hashes):
            raise ValueError("the frontier does not fit its size")
        self.size = size
        levels = [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]
        self._levels: dict[int, bytes] = dict(zip(levels, hashes, strict=True))

    @classmethod
    def from_bytes(cls, size: int, packed: bytes) -> Frontier:
        """Take up a frontier that `to_bytes` packed."""
        return cls(size, [packed[i : i + HASH_SIZE] for i in range(0, len(packed), HASH_SIZE)])

    def to_bytes(self) -> bytes:
        """Return the hashes of the complete subtrees, largest first, as one string."""
        return b"".join(self.hashes())

    def hashes(self) -> list[bytes]:
        """Return the hashes of the complete subtrees, largest first."""
        return [self._levels[level] for level in sorted(self._levels, reverse=True)]

    def copy(self) -> Frontier:
        """Return a frontier that grows by itself from here."""
        return Frontier(self.size, self.hashes())

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Append leaf hashes, a whole level at a time."""
        nodes = list(leaves)
        position, level = self.size, 0
        self.size += len(nodes)
        while nodes:
            if position & 1:
                nodes.insert(0, self._levels.pop(level))
                position -= 1
            if len(nodes) & 1:
                self._levels[level] = nodes[-1]
            nodes = pair_up(nodes)
            position >>= 1
            level += 1

    def root(self) -> bytes:
        """Return the hash of the whole tree. RFC 9162 section 2.1.1."""
        root = b""
        for level in sorted(self._levels):
            root = node_hash(self._levels[level], root) if root else self._levels[level]
        return root or EMPTY_ROOT


def subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """Return the complete subtrees (level, index), left to right, that cover leaves `start` up to `end`."""
    covering = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        covering.append((level, start >> level))
        start += 1 << level
    return covering


def range_root(start: int, end: int, reader: NodeReader) -> bytes:
    """Return the hash MTH(D[start:end]) of a range that begins where a subtree of its size may begin."""
    root = b""
    for level, index in reversed(subtrees(start, end)):
        node = reader(level, index)
        root = node_hash(node, root) if root else node
    return root or EMPTY_ROOT


def root_at(size: int, reader: NodeReader) -> bytes:
    """Return the root that the tree had when it held `size` leaves."""
    return range_root(0, size, reader)


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(index: int, size: int, reader: NodeReader) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree of `size` leaves. RFC 9162 section 2.1.3.1.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError("no such leaf in a tree of this size")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(middle, end, reader))
            end = middle
        else:
            path.append(range_root(start, middle, reader))
            start = middle
    path.reverse()
    return path


def consistency_proof(old_size: int, size: int, reader: NodeReader) -> list[bytes]:
    """Return the proof that the tree of `size` leaves begins with that of `old_size`. RFC 9162 section 2.1.4.1.

    Raises:
        ValueError: `old_size` is not between 0 and `size`.
    """
    if not 0 <= old_size <= size:
        raise ValueError("the older tree cannot be the larger one")
    if old_size in (0, size):
        return []
    path: list[bytes] = []
    start, end, is_whole = 0, size, True
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(range_root(middle, end, reader))
            end = middle
        else:
            path.append(range_root(start, middle, reader))
            start, is_whole = middle, False
    if not is_whole:
        path.append(range_root(start, end, reader))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether `proof` shows `leaf` at `index` below `root`. RFC 9162 section 2.1.3.2.

    Args:
        leaf: its hash (`leaf_hash`), not what was hashed.
        index: from 0, in a tree of `size` leaves.
        proof: hashes beside the path, from the leaf up.
    """
    if not 0 <= index < size or any(len(node) != HASH_SIZE for node in proof):
        return False
    position, last = index, size - 1
    computed = leaf
    for node in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed = node_hash(node, computed)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, node)
        position >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_consistency(*, old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` shows that the tree under `root` begins with that under `old_root`.

    RFC 9162 section 2.1.4.2. An empty older tree is the beginning of every tree.
    """
    if not 0 <= old_size <= size or any(len(node) != HASH_SIZE for node in proof):
        return False
    if old_size == size:
        return not proof and old_root == root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    position, last = old_size - 1, size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_computed = computed = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_computed = node_hash(node, old_computed)
            computed = node_hash(node, computed)
            while position and not position & 1:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, node)
        position >>= 1
        last >>= 1
    return last == 0 and old_computed == old_root and computed == root
