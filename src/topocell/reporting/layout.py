"""Layered layout of a directed acyclic graph, left to right: where each box goes and how each edge runs.

The method of Sugiyama, Tagawa and Toda (1981): long edges are cut by waypoints into steps between neighbouring
layers, each layer is ordered to reduce crossings, then heights are chosen so that edges run straight. Boxes never
overlap: within a layer they keep a gap, and layers do not share any x. Edges cross a layer only through waypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Edge = tuple[int, int]

GAP = 0.13  # free space above and below a box, in the unit of the boxes (inches in drawings)
WAYPOINT = 0.05  # height kept free for an edge that passes a layer
PORT = 0.06  # distance between edges where they touch a box
SWEEPS = 16


@dataclass
class Box:
    """One vertex: its layer (0 is leftmost), its size, and its centre, which `place` fills in (y points up)."""

    layer: int
    width: float
    height: float
    round: bool = False  # a disc or ellipse: edges end on its rim instead of the sides of a rectangle
    x: float = 0.0
    y: float = 0.0


class _Graph:
    """Boxes and waypoints by layer, with the links between neighbouring layers."""

    def __init__(self, boxes: list[Box], edges: Sequence[Edge]) -> None:
        self.boxes = list(boxes)
        self.n_real = len(boxes)
        self.routes: list[list[int]] = []
        for src, dst in edges:
            route = [src]
            for layer in range(boxes[src].layer + 1, boxes[dst].layer):
                self.boxes.append(Box(layer, 0.0, WAYPOINT))
                route.append(len(self.boxes) - 1)
            self.routes.append([*route, dst])
        links = {link for route in self.routes for link in pairwise(route)}
        self.left: list[list[int]] = [[] for _ in self.boxes]
        self.right: list[list[int]] = [[] for _ in self.boxes]
        for a, b in sorted(links):
            self.right[a].append(b)
            self.left[b].append(a)
        self.layers: list[list[int]] = [[] for _ in range(1 + max(box.layer for box in self.boxes))]
        for i, box in enumerate(self.boxes):
            self.layers[box.layer].append(i)

    def rank(self) -> list[int]:
        """Position of each vertex in its layer."""
        rank = [0] * len(self.boxes)
        for layer in self.layers:
            for position, i in enumerate(layer):
                rank[i] = position
        return rank

    def crossings(self) -> int:
        rank, total = self.rank(), 0
        for layer in self.layers:
            ends = [rank[j] for i in layer for j in sorted(self.right[i], key=rank.__getitem__)]
            total += sum(a > b for k, a in enumerate(ends) for b in ends[k + 1 :])
        return total


def place(boxes: list[Box], edges: Sequence[Edge]) -> list[list[tuple[float, float, float]]]:
    """Set `x` and `y` of every box and return the route of every edge.

    Args:
        boxes: vertices; those of layer 0 keep their order, the first one on top.
        edges: `(src, dst)` indices into `boxes`, from a lower to a higher layer. Parallel edges are allowed.

    Returns:
        One route per edge: `(x_enter, x_leave, y)` at the source, at each layer passed, and at the target. An edge
        runs level from x_enter to x_leave and bends only between two such stops. Edges that share a box leave and
        enter it side by side, in the order of where they go and come from.
    """
    graph = _Graph(boxes, edges)
    _order(graph)
    _set_heights(graph)
    half = _set_columns(graph)
    ends = [[_stop(graph, half, route, k) for k in range(len(route))] for route in graph.routes]
    for side in (0, -1):
        for i, box in enumerate(boxes):
            shared = [k for k, route in enumerate(graph.routes) if route[side] == i]
            shared.sort(key=lambda k: -ends[k][1 if side == 0 else -2][2])
            step = min(PORT, 0.7 * box.height / max(len(shared), 1))
            for position, k in enumerate(shared):
                shift = step * ((len(shared) - 1) / 2 - position)
                narrowing = (1 - (2 * shift / box.height) ** 2) ** 0.5 if box.round else 1.0
                reach = narrowing * box.width / 2
                ends[k][side] = (box.x - reach, box.x + reach, box.y + shift)
    return ends


def _stop(graph: _Graph, half: list[float], route: list[int], k: int) -> tuple[float, float, float]:
    """Return where an edge is level at the k-th vertex of its route; waypoints span the whole layer."""
    box = graph.boxes[route[k]]
    reach = half[box.layer] if 0 < k < len(route) - 1 else box.width / 2
    return (box.x - reach, box.x + reach, box.y)


def _order(graph: _Graph) -> None:
    """Order each layer by the mean position of its neighbours and by swaps; keep the order with fewest crossings."""
    best, best_layers = graph.crossings(), [list(layer) for layer in graph.layers]
    for sweep in range(SWEEPS):
        to_the_right = sweep % 2 == 0
        neighbours = graph.left if to_the_right else graph.right
        layers = graph.layers[1:] if to_the_right else graph.layers[-2:0:-1]
        for layer in layers:
            rank = graph.rank()
            mean = {
                i: sum(rank[j] for j in neighbours[i]) / len(neighbours[i]) if neighbours[i] else float(rank[i])
                for i in layer
            }
            layer.sort(key=mean.__getitem__)
        _swap_neighbours(graph)
        now = graph.crossings()
        if now < best:
            best, best_layers = now, [list(layer) for layer in graph.layers]
    graph.layers = best_layers


def _swap_neighbours(graph: _Graph) -> None:
    """Swap two neighbours of a layer wherever that removes a crossing."""
    for layer in graph.layers[1:]:
        rank = graph.rank()
        for k in range(len(layer) - 1):
            a, b = layer[k], layer[k + 1]
            gain = 0
            for near in (graph.left, graph.right):
                pairs = [(rank[u], rank[v]) for u in near[a] for v in near[b]]
                gain += sum(u > v for u, v in pairs) - sum(u < v for u, v in pairs)
            if gain > 0:
                layer[k], layer[k + 1] = b, a


def _set_heights(graph: _Graph) -> None:
    """Pull every vertex towards its neighbours, without breaking order or distance within a layer.

    Each layer in turn is solved by least squares. Weights fall with the distance to a neighbour, which turns the
    sum of squares into a sum of distances as the sweeps converge: an edge gets one bend instead of a staircase.
    """
    boxes = graph.boxes
    distances = []
    for layer in graph.layers:
        steps = [(boxes[a].height + boxes[b].height) / 2 + GAP for a, b in pairwise(layer)]
        offset = [0.0]
        for step in steps:
            offset.append(offset[-1] + step)
        distances.append(offset)
        for i, down in zip(layer, offset):
            boxes[i].y = offset[-1] / 2 - down
    # Between two waypoints an edge pulls hardest: a long edge should be a straight line.
    pull = [
        [(j, 1.0 + 3.0 * (i >= graph.n_real) + 3.0 * (j >= graph.n_real)) for j in graph.left[i] + graph.right[i]]
        for i in range(len(boxes))
    ]
    heights = [box.y for box in boxes]
    for sweep in range(8 * SWEEPS):
        near = max(0.3 * 0.95**sweep, 0.01)
        order = range(len(graph.layers)) if sweep % 2 == 0 else range(len(graph.layers) - 1, -1, -1)
        for depth in order:
            layer = graph.layers[depth]
            wish, weight = [], []
            for i in layer:
                own, total, moment = heights[i], 0.0, 0.0
                for j, stiffness in pull[i]:
                    y = heights[j]
                    w = stiffness / (near + abs(own - y))
                    total += w
                    moment += y * w
                wish.append(moment / total if total else own)
                weight.append(total or 1.0)
            for i, y in zip(layer, _keep_distance(wish, weight, distances[depth])):
                heights[i] = y
    for box, y in zip(boxes, heights):
        box.y = y


def _keep_distance(wish: list[float], weight: list[float], offset: list[float]) -> list[float]:
    """The heights nearest to `wish` (weighted least squares) with `y[i] + offset[i]` never rising with i.

    Isotonic regression by pooling adjacent violators.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for y, w, down in zip(wish, weight, offset):
        mean, total, count = y + down, w, 1
        while pools and pools[-1][0] < mean:
            m, t, c = pools.pop()
            mean, total, count = (m * t + mean * total) / (t + total), t + total, c + count
        pools.append((mean, total, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean - down for mean, down in zip(means, offset)]


def _set_columns(graph: _Graph) -> list[float]:
    """Set x layer by layer, with more room where edges climb far; return half the width of each layer."""
    boxes = graph.boxes
    half = [max((boxes[i].width for i in layer), default=0.0) / 2 for layer in graph.layers]
    x = half[0]
    for depth, layer in enumerate(graph.layers):
        for i in layer:
            boxes[i].x = x
        if depth + 1 < len(graph.layers):
            climb = max((abs(boxes[i].y - boxes[j].y) for i in layer for j in graph.right[i]), default=0.0)
            x += half[depth] + min(max(0.3 * climb, 0.34), 0.95) + half[depth + 1]
    return half
