"""Racing: candidates measured on growing parts of the held-out split, until it is clear which of them stay.

All candidates see the same images, augmented alike, so that they are compared image by image: what differs between
two of them is a small part of what either of them varies by. After some batches, and again each time that the images
have grown by a factor, every pair of candidates still in the race is compared by a paired t test of the difference of
their losses, or of their answers (0 or 1, where it is the large-sample form of McNemar's test). One that is beaten by
as many as there are places leaves the race, one that beats all but as many has won its place.

The t test was chosen for its power. A bound that asks nothing of the distribution (Hoeffding, empirical Bernstein) has
a term of the range of the differences over the number of images, and would need most of the split for differences of a
percent. At the first comparison there are some hundred images, of which a split of the answers counts only through the
pairs that differ: when b of them differ, all to one side, t is about √b, so that at the levels of a race no candidate
falls for less than about nine answers.

What is asked is the decision on the *whole split*, not that on all images of the world. Images are drawn from it
without replacement, so the variance of a mean over n of its N images carries the factor 1 − n/N, and nothing is left
to doubt at the end of the split. Decisions are right with the stated confidence as far as the t test is: a wrong one
needs a candidate that ought to stay to be beaten by one that ought not to, at one of the comparisons; the error is
divided among these pairs and comparisons (union bound). Images of one batch share the statistics of its batch norm,
which the test does not know of; the bound, in turn, counts every comparison and pair as if it erred alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.config.selection import Racing
from topocell.selection.probe import METRICS, Measured

#: How a race can end: all places are won, the open candidates differ by less than the margin, no images are left.
SEPARATED, TIE, WHOLE = "separated", "tie", "whole split"

#: Rows of the sums, and what the state has besides.
_ROWS = ("loss", "accuracy")
_COUNTS = ("open", "kept", "images", "comparisons", "batch", "ended")


class Race:
    """Sums over the images of candidates that are measured side by side; `keep` of them stay.

    Without `rules` nobody leaves before the end.

    Args:
        candidates: how many; what is measured is the supernet without each of them.
        keep: places.
        metric: a row of `topocell.selection.probe.METRICS`.
        batches, images: of the whole split.
        rules: when and how surely to compare.
        device: where the sums are kept.

    Attributes:
        open: candidates still measured. ended: None while there are any, then how the race has ended.
        kept: candidates that have won a place; at the end `keep` of them, or all where there are fewer.
        comparisons: comparisons made.
        images: images that each candidate was measured on.
    """

    def __init__(
        self,
        candidates: int,
        keep: int,
        metric: str,
        batches: int,
        images: int,
        rules: Racing | None,
        device: torch.device,
    ) -> None:
        self.keep, self.rules, self._whole = keep, rules, images
        self._row, self._sign = _ROWS.index(metric), METRICS[metric]
        self._due, self._batches = rules.comparisons(batches) if rules else [], batches
        self.open, self.kept, self.images = list(range(candidates)), list[int](), [0] * candidates
        self.comparisons = self.batch = 0
        self.ended: str | None = None
        self._sums = torch.zeros(len(_ROWS), candidates, dtype=torch.float64, device=device)
        self._products = torch.zeros(candidates, candidates, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, correct: Tensor) -> None:
        """Add one batch of N images, each (len(open), N), in the order of `open`; compare when a comparison is due."""
        values = torch.stack([loss.double(), correct.double()])
        at = torch.tensor(self.open, device=values.device)
        self._sums[:, at] += values.sum(2)
        self._products[at[:, None], at] += values[self._row] @ values[self._row].T
        for candidate in self.open:
            self.images[candidate] += loss.shape[1]
        self.batch += 1
        if self.batch == self._batches:
            self._end(WHOLE)
        elif self.batch in self._due:
            self._compare()

    def worth(self) -> list[float]:
        """Return for each candidate the drop of the metric without it (a rise of the loss), up to a constant."""
        return [self._sign * value for value in self.reads()]

    def reads(self) -> list[float]:
        """The metric without each candidate, over the images that it was measured on."""
        return [total / max(n, 1) for total, n in zip(self._sums[self._row].tolist(), self.images)]

    def measured(self, candidate: int) -> Measured:
        """Loss and accuracy without a candidate so far."""
        images = self.images[candidate]
        loss, correct = (self._sums[:, candidate] / max(images, 1)).tolist()
        return Measured(loss, correct, images)

    def _compare(self) -> None:
        self.comparisons += 1
        places, m = self.keep - len(self.kept), len(self.open)
        lead, doubt = self._leads()
        better = (lead > doubt) & (doubt > 0)  # without a pair that differs nothing is known of the spread
        wins, defeats = better.sum(1).tolist(), better.sum(0).tolist()
        self.kept += [c for c, won in zip(self.open, wins) if won >= m - places]
        self.open = [c for c, won, lost in zip(self.open, wins, defeats) if won < m - places and lost < places]
        if len(self.open) <= self.keep - len(self.kept) or len(self.kept) == self.keep:
            self._end(SEPARATED)
        elif self._are_close():
            self._end(TIE)

    def _leads(self) -> tuple[Tensor, Tensor]:
        """Return for each two open candidates the lead of the first, and how far off that may be; (m, m)."""
        from scipy.special import stdtrit

        assert self.rules is not None
        at = torch.tensor(self.open, device=self._sums.device)
        n = self.images[self.open[0]]
        mean, products = self._sums[self._row, at] / n, self._products[at[:, None], at] / n
        lead = self._sign * (mean[:, None] - mean)
        squares = products.diagonal()[:, None] + products.diagonal() - 2 * products
        variance = (squares - lead**2).clamp(min=0) / max(n - 1, 1) * (1 - n / self._whole)
        comparisons = max(self.keep * (len(self.images) - self.keep), 1) * len(self._due)
        level = 1 - (1 - self.rules.confidence) / comparisons
        return lead, float(stdtrit(max(n - 1, 1), level)) * variance.sqrt()

    def _are_close(self) -> bool:
        """Return whether no open candidate can be worth more than one that leads by the margin or more."""
        if self.rules is None or not self.rules.margin:
            return False
        lead, doubt = self._leads()
        order = best(self.worth(), self.open, len(self.open))
        rows = [self.open.index(c) for c in order]
        places = self.keep - len(self.kept)
        ahead, behind = (torch.tensor(of, device=lead.device) for of in (rows[:places], rows[places:]))
        at = behind[:, None], ahead
        return bool(((lead + doubt)[at] <= self.rules.margin).all() and (doubt[at] > 0).all())

    def _end(self, how: str) -> None:
        self.ended = how
        self.kept = sorted(self.kept + best(self.worth(), self.open, self.keep - len(self.kept)))
        self.open = []

    def state_dict(self) -> dict[str, Any]:
        """The sums, and who is still in the race."""
        named = {name: getattr(self, name) for name in _COUNTS}
        return {**named, "sums": self._sums.clone(), "products": self._products.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of the same race."""
        for name in _COUNTS:
            setattr(self, name, list(state[name]) if isinstance(state[name], list | tuple) else state[name])
        self._sums.copy_(state["sums"])
        self._products.copy_(state["products"])


def best(worth: Sequence[float] | Mapping[int, float], among: Sequence[int], keep: int) -> list[int]:
    """The `keep` candidates of `among` that are worth most, in order of worth, the first of equals."""
    return sorted(among, key=lambda c: (-worth[c], c))[:keep]
