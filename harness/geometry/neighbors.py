"""Exact Euclidean nearest neighbours, from blocked matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from dadapy import Data
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import GeometryError

Points = NDArray[np.floating[Any]] | Tensor

WORKING_MEMORY = 2**29  # bytes
TOLERANCE = 1e-9  # of a distance, relative
LARGEST_STRIP = 2048  # rows; a matrix product gains nothing from more
COPIED_AT_ONCE = 2**26  # bytes of rows


@dataclass(frozen=True)
class Neighbors:
    """The nearest neighbours of N points, each point itself first.

    distances: (N, k + 1) float64, Euclidean, ascending; indices: (N, k + 1) int64. Of points at
        exactly the same distance the one with the lower number comes first.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Neighbours of a point, without itself."""
        return self.distances.shape[1] - 1

    def as_data(self) -> Data:
        """Return DADApy's view of these neighbours."""
        return Data(distances=(self.distances, self.indices), maxk=self.count, n_jobs=1)


def first_identical(points: Points) -> NDArray[np.int64]:
    """Return, for each of (N, D) points, the row number of the first row that is identical.

    Rows are compared whole only where a sum over their bits, taken modulo 2^64, is the same.

    Source: the paper's repository, which drops exact duplicates too (analysis/utils.py).
    """
    cloud = torch.as_tensor(points)
    candidates: dict[int, list[int]] = {}
    first = np.arange(len(cloud))
    for row, key in enumerate(_bit_sums(cloud).tolist() if len(cloud) else []):
        others = candidates.setdefault(key, [])
        for other in others:
            if torch.equal(cloud[row], cloud[other]):
                first[row] = other
                break
        else:
            others.append(row)
    return first


def nearest_neighbors(
    points: Points, count: int, working_memory: int = WORKING_MEMORY
) -> Neighbors:
    """Return the `count` nearest neighbours of (N, D) points; N - 1 if that is fewer.

    Points may be identical: they are each other's neighbours at a distance of 0, and each still its
    own first. ID and density are of distinct points only (`first_identical`).

    Computed in float64 where the points are, on the CPU or a GPU. Distances are within TOLERANCE
    of the true ones, and in the order of those that float64 gives by differences.

    working_memory: bytes, beside a float64 copy of the points and the result. It bounds how many
        rows are compared at once, down to one.

    The product of a strip of rows with all later rows serves both: the strip's rows are complete
    then, and the later rows keep the nearest that they have seen. So half the products are
    computed, and nothing is held that grows with N^2.

    Raises GeometryError for fewer than two points, or values that are not finite.
    Source: what DADApy's `compute_distances` gives.
    """
    cloud = torch.as_tensor(points)
    total = len(cloud)
    if total < 2:
        raise GeometryError(f"{total} distinct points have no neighbours; give more questions")
    distances = _SquaredDistances(cloud)
    wanted = min(count, total - 1) + 1
    kept = min(wanted + 1, total)  # one more: rounding may have swapped the last two
    rows = _strip_rows(total, kept, working_memory)
    nearest = torch.empty(total, kept, dtype=torch.float64, device=cloud.device)
    indices = torch.empty(total, kept, dtype=torch.int64, device=cloud.device)
    seen = 0  # neighbours that every row from here on has
    for strip in _slices(0, total, rows):
        numbers = torch.arange(strip.start, strip.stop, device=cloud.device)
        own = torch.empty(len(numbers), seen + total - strip.start, **_like(nearest))
        own[:, :seen] = nearest[strip, :seen]
        now_seen = min(seen + len(numbers), kept)
        for later in _slices(strip.start, total, rows):
            squared = distances.between(later, strip)
            begin = seen + later.start - strip.start
            own[:, begin : begin + len(squared)] = squared.T
            if later.start > strip.start:
                merged = torch.cat([nearest[later, :seen], squared], dim=1)
                found = _smallest(merged, indices[later, :seen], numbers, now_seen, False)
                nearest[later, :now_seen], indices[later, :now_seen] = found
        numbers = torch.arange(strip.start, total, device=cloud.device)
        found = _smallest(own, indices[strip, :seen], numbers, kept, True)
        nearest[strip], indices[strip] = found
        seen = now_seen
    distances.order(nearest, indices)
    nearest = nearest[:, :wanted].clamp_(min=0).sqrt_()
    return Neighbors(
        nearest.contiguous().cpu().numpy(), indices[:, :wanted].contiguous().cpu().numpy()
    )


class _SquaredDistances:
    """Squared Euclidean distances between rows of (N, D) points, by products of matrices."""

    def __init__(self, cloud: Tensor) -> None:
        self.cloud = cloud
        self.shifted = cloud.to(torch.float64, copy=True)
        # Small vectors lose less to cancellation. The origin is a point of the cloud, not the
        # mean: where the points' sums are exact (integers, a grid) they remain so, and so do ties.
        middle = self.shifted.mean(dim=0)
        away = [torch.linalg.vector_norm(part - middle, dim=1) for part in _parts(self.shifted)]
        self.shifted -= self.shifted[torch.cat(away).argmin()].clone()
        self.squares = torch.cat([torch.linalg.vecdot(p, p) for p in _parts(self.shifted)])
        if not self.squares.isfinite().all():
            raise GeometryError(
                "the representations hold NaN, infinite or huge values (whose squares float64 "
                "cannot hold); try float32, or scale them down"
            )
        # |x|^2 + |y|^2 - 2xy is off by at most 2 D u (|x|^2 + |y|^2), u = 2^-53, however it is
        # summed (Higham 2002, section 3.1). What is smaller than this share of |x|^2 + |y|^2 may
        # be off by more than the tolerance, and is computed from the differences instead.
        self.error = 2 * cloud.shape[1] * 2.0**-53
        self.close = self.error / (2 * TOLERANCE)
        self.pairs = COPIED_AT_ONCE // (8 * cloud.shape[1])

    def between(self, rows: slice, columns: slice) -> Tensor:
        """Return (rows, columns) squared distances; -1 between a point and itself."""
        sums = self.squares[rows, None] + self.squares[columns]
        squared = torch.addmm(sums, self.shifted[rows], self.shifted[columns].T, alpha=-2)
        if rows == columns:
            squared.fill_diagonal_(math.inf)
        near = (squared <= sums.mul_(self.close)).nonzero()
        for pairs in _parts(near, self.pairs):
            row, column = pairs.unbind(dim=1)
            squared[row, column] = self.exact(row + rows.start, column + columns.start)
        if rows == columns:
            squared.fill_diagonal_(-1)  # before all others, also those at a distance of 0
        return squared

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return (P,) squared distances of P pairs of points, by differences."""
        difference = self.cloud[rows].double()
        difference -= self.cloud[columns]
        squared: Tensor = torch.linalg.vecdot(difference, difference)
        return squared

    def order(self, nearest: Tensor, indices: Tensor) -> None:
        """Put ascending (N, k) squared distances right where rounding may have swapped two."""
        for rows in _slices(0, len(nearest), LARGEST_STRIP):
            part = nearest[rows]
            # Less apart than what both may be off by, see above: either may be the larger.
            off = self.error * (self.squares[rows, None] + self.squares[indices[rows]])
            close = part.diff(dim=1) <= off[:, 1:] + off[:, :-1]
            close[:, 0] = False  # the point itself stays first
            doubtful = torch.zeros_like(part, dtype=torch.bool)
            doubtful[:, 1:] |= close
            doubtful[:, :-1] |= close
            for pairs in _parts(doubtful.nonzero(), self.pairs):
                row, place = pairs.unbind(dim=1)
                numbers = indices[rows][row, place]
                nearest[row + rows.start, place] = self.exact(row + rows.start, numbers)
            some = doubtful.any(dim=1).nonzero().squeeze(1) + rows.start
            by_number, order = indices[some].sort(dim=1)
            values, by_value = nearest[some].gather(1, order).sort(dim=1, stable=True)
            nearest[some], indices[some] = values, by_number.gather(1, by_value)


def _smallest(
    squared: Tensor, seen: Tensor, numbers: Tensor, kept: int, ascending: bool
) -> tuple[Tensor, Tensor]:
    """Return the `kept` smallest of each row of (R, S + C) values, and their points' numbers.

    seen: (R, S) numbers of the points in the first S columns; numbers: (C,) those in the others.
    ascending: order them too. Equal values go by number.
    """
    more = min(kept + 1, squared.shape[1])  # one more shows a tie at the end
    values, places = squared.topk(more, dim=1, largest=False, sorted=ascending)
    if ascending:
        tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    elif more > kept:
        last = values.topk(2, dim=1)
        tied = last.values[:, 0] == last.values[:, 1]
        # Drop the extra one: it is the largest, wherever it stands.
        values.scatter_(1, last.indices[:, :1], values[:, -1:].clone())
        places.scatter_(1, last.indices[:, :1], places[:, -1:].clone())
    else:
        tied = values.new_zeros(len(values), dtype=torch.bool)
    values, places = values[:, :kept], places[:, :kept]
    width = seen.shape[1]
    old = seen.gather(1, places.clamp(max=width - 1)) if width else places
    found = torch.where(places < width, old, numbers[(places - width).clamp_(min=0)])
    for rows in _parts(tied.nonzero().squeeze(1), LARGEST_STRIP // 16):
        all_numbers = torch.cat([seen[rows], numbers.expand(len(rows), -1)], dim=1)
        by_number, order = all_numbers.sort(dim=1)
        in_order, by_value = squared[rows].gather(1, order).sort(dim=1, stable=True)
        values[rows] = in_order[:, :kept]
        found[rows] = by_number.gather(1, by_value[:, :kept])
    return values, found


def _strip_rows(total: int, kept: int, working_memory: int) -> int:
    # A row of the strip against all points, and a row of a block with its sums, its merge with
    # what the row has seen, and the merge's result (values, places, numbers and one copy).
    bytes_a_row = 8 * (total + kept + 3 * min(LARGEST_STRIP, total) + 5 * kept)
    rows = min(max(1, working_memory // bytes_a_row), LARGEST_STRIP, total)
    return math.ceil(total / math.ceil(total / rows))


def _slices(begin: int, end: int, size: int) -> Iterator[slice]:
    for start in range(begin, end, size):
        yield slice(start, min(start + size, end))


def _parts(rows: Tensor, size: int = LARGEST_STRIP) -> Iterator[Tensor]:
    for part in _slices(0, len(rows), max(1, size)):
        yield rows[part]


def _like(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "device": tensor.device}


def _bit_sums(cloud: Tensor) -> Tensor:
    """Return a number for each of (N, D) points, the same for identical rows."""
    word = {2: torch.int16, 4: torch.int32, 8: torch.int64}[cloud.element_size()]
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (cloud.shape[1],), generator=generator) | 1
    factors = factors.to(cloud.device)
    # Adding 0 makes -0 the 0 that it is equal to.
    parts = [(part + 0).view(word).long().mul_(factors) for part in _parts(cloud)]
    return torch.cat([part.sum(dim=1) for part in parts])
