"""Which colour stands for which kind of token? The same in every figure and on every page.

All are Okabe and Ito's, told apart by colour-blind readers, and dark and light enough to be seen on
white and on black.
"""

from regvit_jax.analysis.plotting.palette import BLUE, GREEN, PURPLE, VERMILION

CLS = PURPLE
REGISTERS = GREEN
PATCHES = BLUE
OUTLIERS = VERMILION

NORM_MAP, ATTENTION_MAP = "magma", "viridis"
"""Matplotlib's colour maps for maps of norms and of attention."""
