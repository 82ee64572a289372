"""The anatomy of the CT phantom: shapes in millimetres, their Hounsfield values and labels.

Coordinates are the patient's own: x to the left, y to the back, z to the head, the origin in the middle of the body
at the height of the liver. The body is that of a child, so that few voxels hold it whole. Values are typical of
unenhanced CT: liver and spleen differ by less than the noise, and muscle, heart, kidneys and bowel have the same.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

LABELS = {"background": 0, "lungs": 1, "bone": 2, "liver": 3, "spleen": 4, "lesion": 5}
AIR, FAT, MUSCLE, FLUID, BLOOD, LUNG, MARROW, CORTEX = -1000, -100, 56, 20, 48, -830, 220, 620
LIVER, SPLEEN, KIDNEY, BOWEL, LESION_CONTRAST = 60, 64, 60, 55, -40

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass
class Canvas:
    """Hounsfield values and labels being drawn, later strokes over earlier ones.

    Attributes:
        x, y, z: position of each voxel in mm, patient coordinates, [Z, Y, X].
        hu: Hounsfield values.
        label: label values.
    """

    x: Array
    y: Array
    z: Array
    hu: Array
    label: NDArray[np.uint8]

    @classmethod
    def empty(cls, x: Array, y: Array, z: Array) -> Canvas:
        return cls(x, y, z, np.full(x.shape, AIR, np.float32), np.zeros(x.shape, np.uint8))

    def paint(self, mask: Mask, hu: float, label: str = "background") -> None:
        self.hu[mask] = hu
        self.label[mask] = LABELS[label]

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        return self.x, self.y, self.z

    def ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        power: float = 2,
    ) -> Array:
        """The implicit function of a (super)ellipsoid: below 1 within it."""
        out = np.zeros_like(self.x)
        for axis, middle, radius in zip(self.axes, centre, radii, strict=True):
            offset = (axis - middle) / radius
            out += offset * offset if power == 2 else np.abs(offset) ** power
        return out

    def tube(self, path: NDArray[np.float64], radius: float) -> Mask:
        """Within `radius` of a line of points [N, 3]."""
        box = np.ones(self.x.shape, np.bool_)
        for axis, low, high in zip(self.axes, path.min(0), path.max(0), strict=True):
            box &= (axis > low - radius) & (axis < high + radius)
        points = np.stack([axis[box] for axis in self.axes], -1)
        near = np.full(len(points), np.inf)
        for start, stop in itertools.pairwise(path):
            step = stop - start
            share = np.clip((points - start) @ step / float(step @ step), 0, 1)
            off = points - start - share[:, None] * step
            near = np.minimum(near, (off**2).sum(-1))
        box[box] = near < radius**2
        return box


def draw(canvas: Canvas, rng: Generator) -> None:
    """Draw one patient; sizes and places of all organs vary with the generator."""
    cavity, room = _trunk(canvas, rng)
    diaphragm = _lungs(canvas, cavity, rng)
    _heart(canvas, cavity, diaphragm, rng)
    _kidneys(canvas, cavity, rng)
    _bowel(canvas, cavity, diaphragm, rng)
    _spleen(canvas, room, diaphragm, rng)
    _liver_and_lesion(canvas, room, diaphragm, rng)
    _vessels(canvas, rng)
    _spine(canvas, rng)


def _around(rng: Generator, value: float, share: float = 0.08) -> float:
    return float(value * rng.uniform(1 - share, 1 + share))


def _trunk(canvas: Canvas, rng: Generator) -> tuple[Mask, Mask]:
    """Skin, fat, muscle wall with ribs, and the table.

    Returns:
        The cavity, and the part of it that the organs fill: a thin layer of fat lines the wall.
    """
    wide, deep = _around(rng, 98, 0.05), _around(rng, 74, 0.05)
    fat, wall = rng.uniform(6, 11), rng.uniform(10, 13)
    far = 1000.0

    def within(depth: float) -> Mask:
        shape = canvas.ellipsoid((0, 0, 0), (wide - depth, deep - depth, far), power=2.4)
        return shape < 1

    table = (canvas.y > deep + 7) & (canvas.y < deep + 13) & (np.abs(canvas.x) < 90)
    canvas.paint(table, -250)
    canvas.paint(within(0), 10)
    canvas.paint(within(2), FAT)
    canvas.paint(within(fat), MUSCLE)
    inner = within(fat + wall)
    shell = within(fat + wall * 0.3) & ~within(fat + wall * 0.3 + 6)
    angle = np.abs(np.arctan2(canvas.x, canvas.y))  # 0 at the back, pi in front
    height = canvas.z + 14 * angle - rng.uniform(0, 26)
    rib = shell & (np.abs(np.mod(height, 26) - 13) < 4.5) & (angle < 2.3) & (height > -55)
    canvas.paint(rib, CORTEX * 0.75, "bone")
    canvas.paint(inner, FAT)
    back = rng.uniform(15, 18)
    for side in (-1, 1):
        paraspinal = canvas.ellipsoid((side * 24, deep - fat - wall - 4, 0), (back, 13, far))
        canvas.paint((paraspinal < 1) & within(fat), MUSCLE)
    return inner, within(fat + wall + 3.5)


def _lungs(canvas: Canvas, cavity: Mask, rng: Generator) -> Array:
    """Both lungs above a domed diaphragm, whose height over x and y is returned."""
    top = rng.uniform(22, 34)
    dome = top - ((np.abs(canvas.x) - 38) / 62) ** 2 * 34 - (canvas.y / 62) ** 2 * 42
    dome = dome + np.where(canvas.x < 0, 5, 0)
    for side in (-1, 1):
        shape = canvas.ellipsoid((side * _around(rng, 44), 2, 40), (35, 56, 110), power=2.5)
        lung = cavity & (shape < 1) & (canvas.z > dome)
        canvas.paint(lung, LUNG, "lungs")
        hilus = np.array([side * 14.0, 6.0, top + 38.0])
        for _ in range(7):
            end = hilus + np.array(
                [side * rng.uniform(20, 50), rng.uniform(-40, 40), rng.uniform(-45, 30)]
            )
            bend = (hilus + end) / 2 + rng.normal(0, 6, 3)
            vessel = canvas.tube(np.stack([hilus, bend, end]), rng.uniform(1.5, 3.0)) & lung
            canvas.hu[vessel] = -250
    return np.asarray(dome, np.float32)


def _heart(canvas: Canvas, cavity: Mask, dome: Array, rng: Generator) -> None:
    shape = canvas.ellipsoid(
        (_around(rng, 12, 0.3), -20, 58), (_around(rng, 34), _around(rng, 30), 40)
    )
    middle = (np.abs(canvas.x) < 13) & (canvas.y > -30) & (canvas.y < 30)
    canvas.paint(cavity & middle & (canvas.z > dome - 4), 20)
    canvas.paint(cavity & (shape < 1) & (canvas.z > dome - 4), MUSCLE)
    canvas.paint(cavity & (shape < 0.4) & (canvas.z > dome - 4), BLOOD)


def _kidneys(canvas: Canvas, cavity: Mask, rng: Generator) -> None:
    for side in (-1, 1):
        centre = (side * _around(rng, 42), 36.0, -44 + side * 5 + rng.uniform(-6, 6))
        shape = canvas.ellipsoid(centre, (_around(rng, 17), _around(rng, 14), _around(rng, 30)))
        pelvis = canvas.ellipsoid((centre[0] - side * 9, centre[1] - 3, centre[2]), (9, 7, 11))
        canvas.paint(cavity & (shape < 1), KIDNEY)
        canvas.paint(cavity & (shape < 1.2) & (pelvis < 1), FLUID)


def _bowel(canvas: Canvas, cavity: Mask, dome: Array, rng: Generator) -> None:
    """Stomach and loops of bowel: some as dense as liver, some as the lesion, some with air."""
    below = cavity & (canvas.z < dome - 5)
    stomach = canvas.ellipsoid(
        (_around(rng, 34), -26, rng.uniform(-14, -4)), (_around(rng, 30), 24, _around(rng, 24))
    )
    canvas.paint(below & (stomach < 1), BOWEL)
    canvas.paint(below & (stomach < 0.72), FLUID)
    canvas.paint(below & (stomach < 0.72) & (canvas.y < -34), -700)
    for _ in range(int(rng.integers(16, 22))):
        x, y = rng.uniform(-66, 66), rng.uniform(-46, 14)
        z = rng.uniform(-110, -48)
        path = np.cumsum(
            np.vstack([[x, y, z], rng.normal(0, 15, (3, 3)) * np.array([1, 0.7, 0.7])]), axis=0
        )
        radius = rng.uniform(7, 11)
        loop = below & canvas.tube(path, radius) & (canvas.z < -34 + 0.25 * canvas.x)
        canvas.paint(loop, BOWEL)
        filling = float(rng.choice([BOWEL, BOWEL, FLUID, FLUID, -650]))
        canvas.paint(loop & canvas.tube(path, radius - 3.5), filling)


def _spleen(canvas: Canvas, cavity: Mask, dome: Array, rng: Generator) -> None:
    x, y, z = rng.uniform(54, 60), rng.uniform(16, 22), rng.uniform(-18, -8)
    outer = canvas.ellipsoid((x, y, z), (_around(rng, 23), _around(rng, 31), _around(rng, 32)))
    hollow = canvas.ellipsoid((x - 32, y - 14, z - 6), (24, 26, 40))
    room = cavity & (canvas.z < dome - 3) & (outer < 1)
    canvas.paint(room, FAT)
    canvas.paint(room & (hollow > 1), SPLEEN + rng.uniform(-2, 2), "spleen")


def _liver_and_lesion(canvas: Canvas, cavity: Mask, dome: Array, rng: Generator) -> None:
    """The liver under the right dome, a lesion well within it, and a gall bladder as dense as the lesion."""
    x, y, z = -38 + rng.uniform(-4, 4), rng.uniform(-6, 2), rng.uniform(-16, -8)
    radii = (_around(rng, 50, 0.06), _around(rng, 50, 0.06), _around(rng, 46, 0.06))
    right = canvas.ellipsoid((x, y, z), radii, power=2.2)
    left = canvas.ellipsoid((-2, -28, z + 8), (_around(rng, 34), 24, 20))
    lower = canvas.z > z - 30 + 0.35 * (canvas.x - x) - 0.1 * canvas.y
    kidney = canvas.ellipsoid((-42, 42, z - 34), (22, 20, 34))
    liver = cavity & ((right < 1) | (left < 1)) & lower & (kidney > 1) & (canvas.z < dome - 2)
    value = LIVER + rng.uniform(-2, 2)
    canvas.paint(liver, value, "liver")
    bladder = canvas.ellipsoid(
        (x + 20 + rng.uniform(-4, 4), y - 24, z - 38), (_around(rng, 11), 12, _around(rng, 15))
    )
    canvas.paint(cavity & (bladder < 1) & ~liver, FLUID)
    for _ in range(5):  # portal branches, a little denser than the liver
        start = np.array([-6.0, 4.0, z - 4])
        end = start + np.array([rng.uniform(-55, -20), rng.uniform(-30, 30), rng.uniform(-16, 26)])
        path = np.stack([start, (start + end) / 2 + rng.normal(0, 5, 3), end])
        canvas.hu[canvas.tube(path, 2.2) & liver] = value + 12
    size = rng.uniform(17, 22)
    turn = rng.uniform(0, 2 * np.pi)
    place = (
        x + 13 * np.cos(turn) * rng.uniform(0.3, 1),
        y + 15 * np.sin(turn) * rng.uniform(0.3, 1),
        z + rng.uniform(-2, 10),
    )
    shape = canvas.ellipsoid(
        place, (_around(rng, size, 0.15), _around(rng, size, 0.15), _around(rng, size, 0.15))
    )
    bumps = sum(np.sin(axis / rng.uniform(5, 8) + rng.uniform(0, 6)) for axis in canvas.axes)
    canvas.paint(liver & (shape + 0.1 * bumps < 1), value + LESION_CONTRAST, "lesion")


def _vessels(canvas: Canvas, rng: Generator) -> None:
    aorta = np.array([[9.0, 26.0, -200.0], [8.0 + rng.normal(0, 2), 24.0, 0.0], [9.0, 22.0, 200.0]])
    cava = np.array([[-15.0, 24.0, -200.0], [-15.0 + rng.normal(0, 2), 20.0, 0.0], [-12, 8, 200.0]])
    for path, radius in ((aorta, rng.uniform(7, 9)), (cava, rng.uniform(7, 9))):
        canvas.paint(canvas.tube(path, radius), BLOOD)


def _spine(canvas: Canvas, rng: Generator) -> None:
    """Vertebral bodies with cortex, discs between them, canal, arch and spinous process."""
    middle = 44.0
    radius = np.hypot(canvas.x, (canvas.y - middle) * 1.15)
    phase = np.mod(canvas.z + rng.uniform(0, 30), 30)
    disc = phase < 6
    size = _around(rng, 16, 0.06)
    canvas.paint(radius < size, 85)
    canvas.paint((radius < size) & ~disc, CORTEX * 0.7, "bone")
    canvas.paint((radius < size - 3.5) & ~disc & (phase > 9) & (phase < 27), MARROW, "bone")
    canal = np.hypot(canvas.x, canvas.y - middle - size - 4)
    canvas.paint((canal < 11) & (phase > 4), CORTEX * 0.75, "bone")
    canvas.paint(canal < 7, 30)
    process = (
        (np.abs(canvas.x) < 3.5) & (canvas.y > middle + size + 10) & (phase > 8) & (phase < 24)
    )
    canvas.paint(process & (canvas.y < middle + size + 20), CORTEX * 0.7, "bone")
