"""Which numbers on reconstruction are there, and under which keys?

The numerics name a number by a path, such as "all/linear/normalised/l2" or
"matched/position/top1/ratio"; its key also has the table and the definition of an outlier.
"""

from regvit_jax.analysis.engine.analysis import Key, Quantity, Table
from regvit_jax.analysis.outliers.labels import LABEL_QUANTITIES

_L2 = Quantity("L2 error of a token", is_compared=True)
_MSE = Quantity("mean squared error of a value")

ERRORS = Table(
    "reconstruction",
    "Errors of the probes to pixels",
    ("definition", "group", "probe", "space"),
    {
        "l2": _L2,
        "mse": _MSE,
        "r2_patch_mean": Quantity("R² over the patch's mean colour", is_compared=True),
        "r2_global_mean": Quantity("R² over the training images' mean colour"),
    },
)
POSITION = Table(
    "position",
    "Patch position, predicted by a linear probe",
    ("definition", "group"),
    {
        "top1": Quantity("patches put into the right cell", is_share=True, is_compared=True),
        "distance": Quantity("distance to the right cell, in patches"),
    },
)
CONTRAST = Table(
    "contrast",
    "Pixel errors, outliers / normal patches",
    ("definition", "probe", "space"),
    {
        "l2_ratio": Quantity("L2 error, ratio", is_compared=True),
        "mse_ratio": Quantity("mean squared error, ratio"),
    },
)
POSITION_CONTRAST = Table(
    "position_contrast",
    "Position, outliers minus normal patches",
    ("definition",),
    {
        "top1_difference": Quantity("right cell, difference", is_share=True),
        "distance_difference": Quantity("distance, difference in patches"),
    },
)
MATCHED = Table(
    "matched",
    "Outliers against normal patches of the same pixel variance",
    ("definition", "measure"),
    {
        "outlier": Quantity("outliers"),
        "normal": Quantity("matched normal patches"),
        "ratio": Quantity("ratio", is_compared=True),
        "difference": Quantity("difference"),
    },
)
LABELS = Table("labels", "Definitions of an outlier", ("definition",), LABEL_QUANTITIES)
TABLES = (ERRORS, POSITION, CONTRAST, POSITION_CONTRAST, MATCHED, LABELS)

GROUPS = ("all", "normal", "outlier")


def key_of(definition: str, path: str) -> Key:
    """The key of a number that the numerics name by a path."""
    parts = path.split("/")
    if parts[0] == "matched":
        measure = "_".join(part for part in parts[1:-1] if part != "normalised")
        return MATCHED.name, definition, measure, parts[-1]
    if parts[1] == "position":
        if parts[0] == "contrast":
            return POSITION_CONTRAST.name, definition, parts[-1]
        return POSITION.name, definition, parts[0], parts[-1]
    if parts[0] == "contrast":
        return CONTRAST.name, definition, *parts[1:]
    return ERRORS.name, definition, *parts


def is_compared(path: str) -> bool:
    """Whether models are compared by a number: errors in the model's input space, and position."""
    if path.startswith("matched/"):
        return path.endswith("/normalised/l2/ratio")
    if path.startswith("contrast/"):
        return path.endswith("/normalised/l2_ratio")
    is_baseline = any(f"/{name}/" in path for name in ("patch_mean", "global_mean"))
    if path.endswith("/r2_patch_mean"):
        return path.startswith("all/") and "/normalised/" in path
    return path.endswith("/position/top1") or (path.endswith("/normalised/l2") and not is_baseline)
