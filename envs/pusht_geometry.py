"""Plane geometry of Push-T: blocks of convex polygons, their areas, overlap and distance, in plain Python for speed."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Pose = tuple[float, float, float]  # x, y (px) and angle (rad) of a T

WORLD = 512.0  # px, side of the table
AGENT_RADIUS = 15.0  # px

WALLS = ((5, 506), (5, 5), (506, 5), (506, 506), (5, 506))  # px, ends of the four walls in turn

BAR: Polygon = ((-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0))
STEM: Polygon = ((-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0))
CENTER_OF_GRAVITY = (0.0, 45.0)  # mean of the two rectangles' centres, as in the public environment


@dataclass(frozen=True)
class Block:
    """A rigid block in a frame of its own, px.

    Attributes:
        parts: its convex parts, rectangles along the axes, which do not overlap.
        center_of_gravity: the point that it turns about.
    """

    parts: tuple[Polygon, ...]
    center_of_gravity: Point

    @classmethod
    def of(cls, *parts: Polygon) -> Block:
        """A block of even weight."""
        sizes = [abs(area(part)) for part in parts]
        middles = [[sum(axis) / len(part) for axis in zip(*part, strict=True)] for part in parts]
        x, y = (
            sum(size * middle[axis] for size, middle in zip(sizes, middles, strict=True)) / sum(sizes)
            for axis in (0, 1)
        )
        return cls(parts, (x, y))

    def scaled(self, factor: float) -> Block:
        """The block in another size."""
        x, y = self.center_of_gravity
        return Block(
            tuple(tuple((factor * u, factor * v) for u, v in part) for part in self.parts), (factor * x, factor * y)
        )

    @cached_property
    def area(self) -> float:
        """Area, px^2."""
        return sum(abs(area(part)) for part in self.parts)

    @cached_property
    def reach(self) -> float:
        """Distance from the centre of gravity to the farthest corner, px."""
        return max(math.dist(corner, self.center_of_gravity) for part in self.parts for corner in part)

    def polygons(self, x: float, y: float, angle: float) -> tuple[Polygon, ...]:
        """Corners of the parts of the block at a pose (px, rad) in the world, px."""
        return tuple(place(part, x, y, angle) for part in self.parts)

    def coverage(self, pose: Pose, goal: Pose) -> float:
        """Share of the block at `goal` that it covers at `pose`, in [0, 1]; 0 if the goal is NaN."""
        centers = [place((self.center_of_gravity,), *each)[0] for each in (pose, goal)]
        if not math.dist(*centers) < 2 * self.reach:  # NaN is not less, so it returns here too
            return 0.0
        parts = itertools.product(self.polygons(*pose), self.polygons(*goal))
        return min(1.0, sum(overlap_area(part, goal_part) for part, goal_part in parts) / self.area)

    def distance(self, x: float, y: float, block_x: float, block_y: float, angle: float) -> float:
        """Distance in px from a point to the block at a pose, 0 inside."""
        cos, sin = math.cos(angle), math.sin(angle)
        local_x = cos * (x - block_x) + sin * (y - block_y)
        local_y = -sin * (x - block_x) + cos * (y - block_y)
        distances = []
        for (left, top), (right, bottom) in map(_corners, self.parts):
            beside = max(abs(local_x - (left + right) / 2) - (right - left) / 2, 0.0)
            above = max(abs(local_y - (top + bottom) / 2) - (bottom - top) / 2, 0.0)
            distances.append(math.hypot(beside, above))
        return min(distances)


def place(polygon: Polygon, x: float, y: float, angle: float) -> Polygon:
    """Corners of `polygon` after a turn by `angle` (rad) about the origin and a move to (x, y), px."""
    cos, sin = math.cos(angle), math.sin(angle)
    return tuple([(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in polygon])


def area(polygon: Polygon) -> float:
    """Signed area of a polygon in px^2, by the shoelace formula: its sign is the direction of its corners."""
    edges = zip(polygon, (*polygon[1:], *polygon[:1]), strict=True)
    return 0.5 * sum(ax * by - bx * ay for (ax, ay), (bx, by) in edges)


def overlap_area(subject: Polygon, clip: Polygon) -> float:
    """Area in px^2 of the intersection of two convex polygons, by Sutherland and Hodgman's clipping."""
    sign = math.copysign(1.0, area(clip))
    for (ax, ay), (bx, by) in zip(clip, (*clip[1:], *clip[:1]), strict=True):
        sides = [sign * ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) for x, y in subject]
        if min(sides) >= 0:
            continue
        inside: list[Point] = []
        for i, (point, side) in enumerate(zip(subject, sides, strict=True)):
            (x, y), previous_side = subject[i - 1], sides[i - 1]
            if (side >= 0) != (previous_side >= 0):
                share = previous_side / (previous_side - side)
                inside.append((x + share * (point[0] - x), y + share * (point[1] - y)))
            if side >= 0:
                inside.append(point)
        if not inside:
            return 0.0
        subject = tuple(inside)
    return abs(area(subject))


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    """A rectangle along the axes, px."""
    return (left, top), (left, bottom), (right, bottom), (right, top)


TEE = Block((BAR, STEM), CENTER_OF_GRAVITY)
BLOCKS = {
    "T": TEE,
    "L": Block.of(rectangle(-15, 0, 15, 120), rectangle(15, 90, 75, 120)),
    "Z": Block.of(rectangle(-60, 15, 15, 45), rectangle(-15, 45, 60, 75)),
    "I": Block.of(rectangle(-15, -15, 15, 105)),
    "square": Block.of(rectangle(-40, 5, 40, 85)),
    "+": Block.of(rectangle(-60, 30, 60, 60), rectangle(-15, -15, 15, 30), rectangle(-15, 60, 15, 105)),
}
"""Blocks by the names of their shapes, each with its centre near that of the T."""


def _corners(part: Polygon) -> tuple[Point, Point]:
    """Smallest and largest coordinates of a rectangle."""
    xs, ys = zip(*part, strict=True)
    return (min(xs), min(ys)), (max(xs), max(ys))
