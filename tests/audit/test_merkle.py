"""The tree of RFC 9162: known values, brute force, and proofs that must not verify."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import merkle
from audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)

# The eight entries and the roots of trees over the first n of them, as Certificate Transparency publishes them.
ENTRIES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def brute_root(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(brute_root(leaves[:split]), brute_root(leaves[split:]))


def reader_of(leaves: list[bytes]) -> merkle.NodeReader:
    def node(level: int, index: int) -> bytes:
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "only complete subtrees may be asked for"
        return brute_root(part)

    return node


def test_roots_are_those_of_certificate_transparency() -> None:
    frontier = Frontier()
    for entry, root in zip(ENTRIES, ROOTS, strict=True):
        frontier.extend([leaf_hash(entry)])
        assert frontier.root().hex() == root


def test_the_empty_tree_hashes_the_empty_string() -> None:
    assert Frontier().root() == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_inclusion_proofs_are_those_of_certificate_transparency() -> None:
    reader = reader_of([leaf_hash(entry) for entry in ENTRIES])
    assert [node.hex() for node in inclusion_proof(0, 8, reader)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_consistency_proof_is_that_of_certificate_transparency() -> None:
    reader = reader_of([leaf_hash(entry) for entry in ENTRIES])
    assert [node.hex() for node in consistency_proof(6, 8, reader)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_proof_of_small_trees_verifies_and_no_neighbour_does(size: int) -> None:
    leaves = leaves_of(size)
    reader, root = reader_of(leaves), brute_root(leaves)
    assert root_at(size, reader) == root
    for index in range(size):
        proof = inclusion_proof(index, size, reader)
        assert verify_inclusion(leaves[index], index=index, size=size, proof=proof, root=root)
        for other in range(size):
            if other != index:
                assert not verify_inclusion(leaves[index], index=other, size=size, proof=proof, root=root)
        assert not verify_inclusion(leaves[index], index=index, size=size, proof=[*proof, root], root=root)
        if proof:
            assert not verify_inclusion(leaves[index], index=index, size=size, proof=proof[:-1], root=root)
    for old_size in range(size + 1):
        old_root = brute_root(leaves[:old_size])
        proof = consistency_proof(old_size, size, reader)
        assert verify_consistency(old_size=old_size, size=size, old_root=old_root, root=root, proof=proof)
        if 0 < old_size < size:
            forged = brute_root([*leaves[: old_size - 1], leaf_hash(b"forged")])
            assert not verify_consistency(old_size=old_size, size=size, old_root=forged, root=root, proof=proof)
            assert not verify_consistency(old_size=old_size, size=size, old_root=old_root, root=forged, proof=proof)
            assert not verify_consistency(old_size=old_size, size=size, old_root=old_root, root=root, proof=proof[:-1])
            assert not verify_consistency(
                old_size=old_size, size=size, old_root=old_root, root=root, proof=[*proof, root]
            )


@given(st.lists(st.integers(0, 40), max_size=12))
def test_a_frontier_grown_in_any_pieces_is_the_tree(pieces: list[int]) -> None:
    leaves = leaves_of(sum(pieces))
    frontier = Frontier()
    start = 0
    for piece in pieces:
        frontier.extend(leaves[start : start + piece])
        start += piece
        frontier = Frontier.from_bytes(frontier.size, frontier.to_bytes())
        assert frontier.root() == brute_root(leaves[:start])


@given(st.integers(1, 200), st.data())
def test_a_changed_hash_in_a_proof_is_refused(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    reader, root = reader_of(leaves), brute_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, reader)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        proof[place] = bytes(32)
        assert not verify_inclusion(leaves[index], index=index, size=size, proof=proof, root=root)


def test_an_inner_node_is_not_taken_for_a_leaf() -> None:
    """RFC 9162 section 2.1.1: leaves and nodes are hashed apart, so no second preimage is made by shortening."""
    leaves = leaves_of(4)
    inner = [node_hash(leaves[0], leaves[1]), node_hash(leaves[2], leaves[3])]
    assert leaf_hash(leaves[0] + leaves[1]) != inner[0]
    assert not verify_inclusion(inner[0], index=0, size=4, proof=[inner[1]], root=brute_root(leaves))


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no such leaf"):
        inclusion_proof(index, size, reader_of(leaves_of(size)))
    assert not verify_inclusion(leaf_hash(b""), index=index, size=size, proof=[], root=EMPTY_ROOT)


def test_no_consistency_with_a_larger_past() -> None:
    with pytest.raises(ValueError, match="larger"):
        consistency_proof(5, 4, reader_of(leaves_of(4)))
    assert not verify_consistency(old_size=5, size=4, old_root=EMPTY_ROOT, root=EMPTY_ROOT, proof=[])


@pytest.mark.parametrize(("size", "hashes"), [(3, [bytes(32)]), (1, []), (1, [b"short"]), (-1, [])])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="frontier"):
        Frontier(size, hashes)
