"""How are parameters read that Flax serialised with msgpack, as deit3-jax does?"""

from pathlib import Path

import numpy as np

from regvit_jax.convert.pickles import DAMAGED
from regvit_jax.convert.stored import Stored
from regvit_jax.errors import InputError

_WRAPPER = "model"


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a msgpack file, under names joined by dots.

    Raises:
      InputError: If the file is damaged, or holds no tree of tensors.
    """
    from flax import serialization

    from regvit_jax.checkpoint import flatten

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        leaves = flatten(tree.get(_WRAPPER, tree))
        arrays = {name.replace("/", "."): np.asarray(leaf) for name, leaf in leaves.items()}
    except DAMAGED as error:
        raise InputError(
            f"{path} is damaged: it is no Flax msgpack file ({type(error).__name__}: {error}). "
            "Download or copy it again."
        ) from error
    return {name: _stored(array) for name, array in arrays.items()}


def _stored(array: np.ndarray) -> Stored:
    return Stored(array.shape, array.dtype.name, lambda: array)
