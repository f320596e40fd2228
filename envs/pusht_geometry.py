"""Plane geometry of Push-T: the T of two convex polygons, its area, overlap and distance, in plain Python for speed."""

from __future__ import annotations

import itertools
import math

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Pose = tuple[float, float, float]  # x, y (px) and angle (rad) of a T

WORLD = 512.0  # px, side of the table
AGENT_RADIUS = 15.0  # px

WALLS = ((5, 506), (5, 5), (506, 5), (506, 506), (5, 506))  # px, ends of the four walls in turn

BAR: Polygon = ((-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0))
STEM: Polygon = ((-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0))
BLOCK_AREA = 120.0 * 30.0 + 30.0 * 90.0
CENTER_OF_GRAVITY = (0.0, 45.0)  # mean of the two rectangles' centres, as in the public environment
REACH = math.hypot(15.0, 75.0)  # px from the centre of gravity to the farthest corners, at the stem's foot


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


def block_polygons(x: float, y: float, angle: float) -> tuple[Polygon, Polygon]:
    """Corners of the T's bar and stem in the world, px."""
    return place(BAR, x, y, angle), place(STEM, x, y, angle)


def block_coverage(block: Pose, goal: Pose) -> float:
    """Share of the T at `goal` that the T at `block` covers, in [0, 1]; 0 if the goal is NaN."""
    centers = [place((CENTER_OF_GRAVITY,), *pose)[0] for pose in (block, goal)]
    if not math.dist(*centers) < 2 * REACH:  # NaN is not less, so it returns here too
        return 0.0
    parts = itertools.product(block_polygons(*block), block_polygons(*goal))
    return min(1.0, sum(overlap_area(part, goal_part) for part, goal_part in parts) / BLOCK_AREA)


def distance_to_block(x: float, y: float, block_x: float, block_y: float, angle: float) -> float:
    """Distance in px from a point to the T, 0 inside."""
    cos, sin = math.cos(angle), math.sin(angle)
    local_x = cos * (x - block_x) + sin * (y - block_y)
    local_y = -sin * (x - block_x) + cos * (y - block_y)
    bar = math.hypot(max(abs(local_x) - 60.0, 0.0), max(abs(local_y - 15.0) - 15.0, 0.0))
    stem = math.hypot(max(abs(local_x) - 15.0, 0.0), max(abs(local_y - 75.0) - 45.0, 0.0))
    return min(bar, stem)
