"""Plane geometry of convex polygons: just what coverage needs, fast enough to run at every step."""

from __future__ import annotations

import math

Point = tuple[float, float]
Polygon = tuple[Point, ...]


def place(polygon: Polygon, x: float, y: float, angle: float) -> Polygon:
    """`polygon` turned by `angle` (rad) about the origin, then moved to (x, y)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return tuple((x + cos * u - sin * v, y + sin * u + cos * v) for u, v in polygon)


def area(polygon: Polygon) -> float:
    """Signed area by the shoelace formula."""
    edges = zip(polygon, (*polygon[1:], *polygon[:1]), strict=True)
    return 0.5 * sum(ax * by - bx * ay for (ax, ay), (bx, by) in edges)


def overlap_area(subject: Polygon, clip: Polygon) -> float:
    """Area that two convex polygons share (Sutherland and Hodgman's clipping)."""
    sign = math.copysign(1.0, area(clip))
    for (ax, ay), (bx, by) in zip(clip, (*clip[1:], *clip[:1]), strict=True):
        sides = [sign * ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) for x, y in subject]
        kept: list[Point] = []
        for i, (point, side) in enumerate(zip(subject, sides, strict=True)):
            before, side_before = subject[i - 1], sides[i - 1]
            if (side >= 0) != (side_before >= 0):
                share = side_before / (side_before - side)
                kept.append((before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])))
            if side >= 0:
                kept.append(point)
        if not kept:
            return 0.0
        subject = tuple(kept)
    return abs(area(subject))
