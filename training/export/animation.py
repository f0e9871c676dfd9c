"""The film: a policy in, a GIF of it balancing a pole that is pushed out. Drawn here: Gymnasium's renderer needs a game library."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from training.envs.cartpole import CartPoles
from training.evaluation.episodes import QFunction

SIZE = (480, 190)  # pixels
SCALE = 95.0  # pixels a metre
SECONDS = 8
FRAMES_PER_SECOND = 25
PUSHES = {75: 0.9, 175: -0.9, 275: 1.0}  # step: jump of the cart's velocity, m/s
SHOWN_FOR = 15  # steps that an arrow stays

_PALETTE = {
    "sky": (250, 250, 247),
    "rail": (120, 120, 120),
    "cart": (44, 62, 80),
    "pole": (202, 145, 90),
    "push": (192, 57, 43),
}


def film(q_values: QFunction) -> bytes:
    """Return the GIF. The pole begins leaning; red arrows are pushes of about 1 m/s."""
    plant = CartPoles(1)
    plant.state[:, 0] = (0.0, 0.0, 0.1, 0.0)
    frames = []
    arrow = 0.0
    for step in range(SECONDS * 50):
        if step in PUSHES:
            plant.push(np.array([PUSHES[step]]))
            arrow = PUSHES[step]
        since = min((step - pushed for pushed in PUSHES if pushed <= step), default=SHOWN_FOR)
        if step % (50 // FRAMES_PER_SECOND) == 0:
            frames.append(
                _frame(
                    float(plant.state[0, 0]),
                    float(plant.state[2, 0]),
                    arrow if since < SHOWN_FOR else 0.0,
                )
            )
        fell, _ = plant.move(q_values(plant.state.T.astype(np.float32)).argmax(axis=1))
        if fell[0]:
            break
    image = io.BytesIO()
    frames[0].save(
        image,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
        optimize=True,
    )
    return image.getvalue()


def _frame(x: float, angle: float, push: float) -> Image.Image:
    image = Image.new("P", SIZE, 0)
    image.putpalette([channel for colour in _PALETTE.values() for channel in colour])
    colour = {name: index for index, name in enumerate(_PALETTE)}
    draw = ImageDraw.Draw(image)
    middle, ground = SIZE[0] / 2 + x * SCALE, SIZE[1] - 35
    for limit in (-2.4, 2.4):
        draw.line(
            (SIZE[0] / 2 + limit * SCALE, ground - 12, SIZE[0] / 2 + limit * SCALE, ground + 24),
            fill=colour["push"],
        )
    draw.line((0, ground + 12, SIZE[0], ground + 12), fill=colour["rail"])
    draw.rectangle((middle - 26, ground - 12, middle + 26, ground + 12), fill=colour["cart"])
    tip = (middle + math.sin(angle) * SCALE * 1.2, ground - 8 - math.cos(angle) * SCALE * 1.2)
    draw.line((middle, ground - 8, *tip), fill=colour["pole"], width=7)
    draw.ellipse((middle - 4, ground - 12, middle + 4, ground - 4), fill=colour["rail"])
    if push:
        start, end = middle - math.copysign(80, push), middle - math.copysign(34, push)
        draw.line((start, ground, end, ground), fill=colour["push"], width=5)
        head = end - math.copysign(12, push)
        draw.polygon([(end, ground), (head, ground - 8), (head, ground + 8)], fill=colour["push"])
    return image
