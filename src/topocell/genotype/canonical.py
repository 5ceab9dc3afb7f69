"""The canonical form of a cell: one numbering for all that are the same up to the names of their nodes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

Pair = tuple[str, int]
Nodes = tuple[tuple[Pair, ...], ...]

Colours = dict[int, int]
Neighbours = dict[int, list[Pair]]


def canonical(inputs: int, nodes: Nodes, concat: Sequence[int], dropped: bool) -> tuple[Nodes, tuple[int, ...]]:
    """Return nodes and output of a cell under the numbering with the smallest encoding.

    Args:
        inputs: number of input nodes.
        nodes: `(operation, predecessor)` pairs of each computed node.
        concat: nodes of the output.
        dropped: whether nodes without pairs are left out.

    Nodes are coloured by what is invariant (output, level, output membership), then by their neighbours'
    colours until nothing changes. Nodes that still look alike are told apart one by one, and every way is
    tried, up to a bound that only large cells of much hidden symmetry reach.
    """
    numbered = enumerate(nodes, inputs)
    before: Neighbours = {n: list(pairs) for n, pairs in numbered if pairs or not dropped}
    after: Neighbours = {n: [] for n in before}
    level = dict.fromkeys(range(inputs), 0)
    for node, pairs in before.items():
        level[node] = max((level[p] + 1 for _, p in pairs), default=0)
        for name, p in pairs:
            if p >= inputs:
                after[p].append((name, node))
    seen = {n: (n in concat and not after[n], level[n], n in concat) for n in before}
    rank = {value: r for r, value in enumerate(sorted(set(seen.values())))}
    colours = {n: rank[seen[n]] for n in before} | {n: n - inputs for n in range(inputs)}

    def renumbered(colours: Colours) -> tuple[Nodes, tuple[int, ...]]:
        found = tuple(
            tuple(sorted((name, colours[p] + inputs) for name, p in before[n]))
            for n in sorted(before, key=colours.__getitem__)
        )
        return found, tuple(sorted(colours[n] + inputs for n in concat))

    # Trying a numbering looks at every pair, at worst once per node.
    most = 1 + min(4096 // len(before), 16384 // max(1, sum(map(len, before.values()))))
    candidates = islice(_numberings(colours, before, after), most)
    return min(map(renumbered, candidates))


def _numberings(colours: Colours, before: Neighbours, after: Neighbours) -> Iterator[Colours]:
    """Colourings that refine `colours` and give every node its own: 0, 1, .. in topological order."""
    colours = _refine(colours, before, after)
    size = Counter(colours[n] for n in before)
    tied = min((c for c in size if size[c] > 1), default=None)
    if tied is None:
        yield colours
        return
    tried = set()
    for node in before:
        # Nodes with the very same neighbours can be swapped: one of them is enough.
        twins = (tuple(sorted(before[node])), tuple(sorted(after[node])))
        if colours[node] == tied and twins not in tried:
            tried.add(twins)
            yield from _numberings(
                {n: 2 * c + (n != node) if n in before else c for n, c in colours.items()}, before, after
            )


def _refine(colours: Colours, before: Neighbours, after: Neighbours) -> Colours:
    """Split colours, in an order no numbering changes, until nodes of one colour have like neighbours."""
    while True:
        seen = {
            n: (
                colours[n],
                tuple(sorted((name, colours[p]) for name, p in before[n])),
                tuple(sorted((name, colours[p]) for name, p in after[n])),
            )
            for n in before
        }
        rank = {value: r for r, value in enumerate(sorted(set(seen.values())))}
        stable = len(rank) == len({colours[n] for n in before})
        colours = colours | {n: rank[seen[n]] for n in before}
        if stable:
            return colours
