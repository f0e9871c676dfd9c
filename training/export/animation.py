"""The animation of a policy: a GIF in which it balances a pole that is pushed.

It is drawn here, since Gymnasium's renderer needs a library for games.
"""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from models.manifest import Plant
from training.envs.cartpole import VectorCartPole
from training.envs.plant import STANDARD, steps_of
from training.types import QFunction

SIZE = (480, 190)  # pixels
SCALE = 95.0  # pixels a metre
# Steps of the standard plant; as long for another one.
STEPS = 400
STEPS_PER_FRAME = 2
PUSHES = {75: 0.9, 175: -0.9, 275: 1.0}  # by step: change of the cart's velocity, m/s
ARROW_STEPS = 15  # for which the arrow of a push is shown
SHORTEST_FRAME = 20  # ms; programs show shorter ones more slowly
LONGEST_POLE = 140.0  # pixels
TRACK_END = 2.4  # m, from the middle

_PALETTE = {
    "sky": (250, 250, 247),
    "rail": (120, 120, 120),
    "cart": (44, 62, 80),
    "pole": (202, 145, 90),
    "push": (192, 57, 43),
}


def animation(q_values: QFunction, plant: Plant = STANDARD) -> bytes:
    """Return the GIF. The pole begins leaning; red arrows are pushes of about 1 m/s."""
    environment = VectorCartPole(1, plant=plant)
    environment.state[:, 0] = (0.0, 0.0, 0.1, 0.0)
    frames = []

    pushes = {steps_of(plant, step): push for step, push in PUSHES.items()}
    arrow_steps, steps_per_frame = steps_of(plant, ARROW_STEPS), steps_of(plant, STEPS_PER_FRAME)
    # Of twice the pole's half length, drawn a fifth longer.
    length = min(SCALE * 2.4 * plant.half_length, LONGEST_POLE)
    for step in range(steps_of(plant, STEPS)):
        if step in pushes:
            environment.push(np.array([pushes[step]]))
        if step % steps_per_frame == 0:
            position, _, angle, _ = environment.state[:, 0].tolist()
            recent = (push for start, push in pushes.items() if 0 <= step - start < arrow_steps)
            frames.append(_frame(position, angle, length, next(recent, 0.0)))

        states = environment.state.T.astype(np.float32)
        terminated, _ = environment.advance(q_values(states).argmax(axis=1))
        if terminated[0]:
            break

    image = io.BytesIO()
    frames[0].save(
        image,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=max(SHORTEST_FRAME, round(1000 * steps_per_frame * plant.step_seconds)),
        loop=0,
        optimize=True,
    )
    return image.getvalue()


def _frame(position: float, angle: float, length: float, push: float) -> Image.Image:
    """Draw a frame with a pole of so many pixels, and the arrow of a push, if there is one."""
    image = Image.new("P", SIZE, 0)
    image.putpalette([channel for colour in _PALETTE.values() for channel in colour])
    colour = {name: index for index, name in enumerate(_PALETTE)}
    draw = ImageDraw.Draw(image)

    # The track and its ends.
    middle, cart_x, cart_y = SIZE[0] / 2, SIZE[0] / 2 + position * SCALE, SIZE[1] - 35
    for end in (middle - TRACK_END * SCALE, middle + TRACK_END * SCALE):
        draw.line((end, cart_y - 12, end, cart_y + 24), fill=colour["push"])
    draw.line((0, cart_y + 12, SIZE[0], cart_y + 12), fill=colour["rail"])

    # Cart, pole and joint.
    draw.rectangle((cart_x - 26, cart_y - 12, cart_x + 26, cart_y + 12), fill=colour["cart"])
    tip = (cart_x + math.sin(angle) * length, cart_y - 8 - math.cos(angle) * length)
    draw.line((cart_x, cart_y - 8, *tip), fill=colour["pole"], width=7)
    draw.ellipse((cart_x - 4, cart_y - 12, cart_x + 4, cart_y - 4), fill=colour["rail"])

    if push:
        start, end = cart_x - math.copysign(80, push), cart_x - math.copysign(34, push)
        draw.line((start, cart_y, end, cart_y), fill=colour["push"], width=5)
        head = end - math.copysign(12, push)
        draw.polygon([(end, cart_y), (head, cart_y - 8), (head, cart_y + 8)], fill=colour["push"])
    return image
