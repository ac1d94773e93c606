"""The figures there are. A new one is a folder with its module, and its place here."""

from __future__ import annotations

from evaluation.figure import Figure
from evaluation.figure_5 import figure_5
from evaluation.figure_6 import figure_6
from evaluation.figure_7 import figure_7
from evaluation.figure_8 import figure_8
from evaluation.figure_9 import figure_9
from evaluation.figure_10 import figure_10

FIGURES: tuple[Figure, ...] = (
    figure_5.FIGURE,
    figure_6.FIGURE,
    figure_7.FIGURE,
    figure_8.FIGURE,
    figure_9.FIGURE,
    figure_10.FIGURE,
)
