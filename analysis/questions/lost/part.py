"""Which part of the data does LOST look at, where none is named?"""

from pathlib import Path

from regvit_jax.image_files import are_several
from regvit_jax.prepared import prepared_in
from regvit_jax.voc import voc_year


def resolved_split(split: str, data: str) -> str:
    """The part that "auto" stands for: trainval for VOC, as in published figures, else val."""
    if split != "auto":
        return split
    if are_several(data):
        return "val"
    root = Path(data).expanduser()
    if root.is_dir() and voc_year(root):
        return "trainval"
    is_prepared = not root.is_dir() or bool(prepared_in(root))
    return "train+val" if is_prepared and "voc" in root.parts else "val"
