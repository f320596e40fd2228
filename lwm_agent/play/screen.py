"""What the window shows: the table, the goal, what the agent imagines, and how it goes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..eval.canvas import GREEN, PAPER, draw_graphs, draw_strips, draw_ways, font, scaled
from ..eval.figures import FAINT, GRID, INK
from ..eval.film import graphs_of
from ..eval.scenery import Frame
from .session import REMEMBERED, Session

TABLE, MARGIN, TOP, BOTTOM, SIDE = 576, 16, 48, 40, 368  # px
WIDTH, HEIGHT = MARGIN + TABLE + MARGIN + SIDE + MARGIN, TOP + TABLE + BOTTOM
SMALL = (SIDE - MARGIN) // 2
STRIP = 96
KEYS = (
    "drag: move the goal    wheel: turn it    right button: push the block    space: pause    r: new task    esc: quit"
)


def draw_screen(session: Session, words: str) -> Frame:
    """The window's picture ``(664, 992, 3)``."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, TOP / 2), words, INK, font(16), anchor="lm")
    canvas.paste(Image.fromarray(_table(session)), (MARGIN, TOP))
    draw.rectangle((MARGIN - 1, TOP - 1, MARGIN + TABLE, TOP + TABLE), outline=GRID)
    draw.text((MARGIN, HEIGHT - BOTTOM / 2), KEYS, FAINT, font(14), anchor="lm")
    left, top = MARGIN + TABLE + MARGIN, TOP + SMALL + 32
    _mark(draw, session, left)
    imagined = None if session.plan is None else session.plan.pictures
    pictures = {"goal": session.goal_picture, "imagined end of the plan": None if imagined is None else imagined[-1]}
    for column, (caption, picture) in enumerate(pictures.items()):
        at = left + column * (SMALL + MARGIN)
        if picture is not None:
            canvas.paste(scaled(picture, SMALL), (at, TOP))
        draw.rectangle((at - 1, TOP - 1, at + SMALL, TOP + SMALL), outline=GRID)
        draw.text((at + SMALL / 2, TOP + SMALL + 13), caption, INK, font(14), anchor="mm")
    if imagined is not None:
        strip = draw_strips({"imagined, block by block": imagined}, session.agent.schedule.frameskip, SIDE, STRIP)
        canvas.paste(Image.fromarray(strip), (left, top))
    canvas.paste(Image.fromarray(_graphs(session, TOP + TABLE - top - STRIP - 8)), (left, top + STRIP + 8))
    return np.asarray(canvas)


def _table(session: Session) -> Frame:
    """The present with the goal behind it, and the way of the agent that the plan asks for."""
    picture = session.env.render()
    assert picture is not None
    return draw_ways(picture, session.planned_ways, session.agent.schedule.frameskip, TABLE)


def _mark(draw: ImageDraw.ImageDraw, session: Session, left: int) -> None:
    text = "goal reached" if session.success else "paused" if session.paused else ""
    if text:
        draw.rounded_rectangle((left, 10, left + SIDE, TOP - 10), 6, GREEN if session.success else FAINT)
        draw.text((left + SIDE / 2, TOP / 2), text, PAPER, font(16), anchor="mm")


def _graphs(session: Session, height: int) -> Frame:
    """What is known of the newest steps."""
    first = max(0, session.steps - REMEMBERED)
    graphs = graphs_of([(step - first, insight) for step, insight in session.told])
    return draw_graphs(graphs, session.steps - first, REMEMBERED, (SIDE, height))
