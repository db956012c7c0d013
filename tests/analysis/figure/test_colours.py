"""Can the colours of figures be told apart by every reader, on light and on dark pages?"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.figure.style import COLOURS, DARK, INK, PAGE, SOFT, look

Array = NDArray[np.float64]

# Machado, Oliveira and Fernandes (2009), severity 1, of linear sRGB.
SEEN = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "neither": np.eye(3).tolist(),
}  # fmt: skip
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
PALETTES = {"light": COLOURS, "dark": tuple(DARK[colour] for colour in COLOURS)}
PAGES = {"light": PAGE, "dark": DARK[PAGE]}


def linear(colour: str) -> Array:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(values: Array) -> Array:
    """CIELAB of linear sRGB, white D65."""
    ratios = TO_XYZ @ np.clip(values, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first: str, second: str) -> float:
    """The ratio of WCAG 2."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def test_the_measures_agree_with_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    # Red and green of one lightness: far apart, and one colour for a deuteranope.
    red, green = linear("#c04000"), linear("#708000")
    far, near = (
        np.linalg.norm(lab(np.array(SEEN[who]) @ red) - lab(np.array(SEEN[who]) @ green))
        for who in ("neither", "deuteranopia")
    )
    assert far > 50 > 10 > near


@pytest.mark.parametrize("page", PALETTES)
@pytest.mark.parametrize("who", SEEN)
def test_any_two_colours_are_apart(who: str, page: str) -> None:
    seen = [lab(np.array(SEEN[who]) @ linear(colour)) for colour in PALETTES[page]]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12  # 2.3 is just seen


@pytest.mark.parametrize("page", PALETTES)
def test_lines_and_text_stand_out_from_the_page(page: str) -> None:
    assert min(contrast(colour, PAGES[page]) for colour in PALETTES[page]) >= 3  # WCAG 1.4.11
    text = (INK, SOFT) if page == "light" else (DARK[INK], DARK[SOFT])
    assert min(contrast(colour, PAGES[page]) for colour in text) >= 4.5


def test_colour_is_never_the_only_difference_of_two_neighbours() -> None:
    looks = [(look(i)["color"], str(look(i)["linestyle"])) for i in range(32)]
    assert len(set(looks)) == 32
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks))
