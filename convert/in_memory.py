"""How does a PyTorch model become ours without a file?

torch is not imported: what is handed over brings its own methods.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regvit_jax import strict_json
from regvit_jax.convert.addresses import clean
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.decision import decide
from regvit_jax.convert.facts import Fact, Facts, Statement
from regvit_jax.convert.hugging_face_facts import model_facts
from regvit_jax.convert.importing import to_ours
from regvit_jax.convert.naming import Wanted, choose
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.timm_facts import pixel_facts
from regvit_jax.convert.weights import Weights
from regvit_jax.errors import InputError

if TYPE_CHECKING:
    from regvit_jax.checkpoint import CheckpointInfo
    from regvit_jax.model import DeiT3

_LABEL = "The PyTorch model"
_GELUS = {"none": "gelu", "tanh": "gelu_tanh"}


class InMemory(NamedTuple):
    """A model of ours, as `regvit_jax.load` gives it, and what `regvit_jax.save` wants with it."""

    model: "DeiT3"
    params: dict[str, Any]
    info: "CheckpointInfo"
    """With preprocessing, and with what was assumed in `source`."""


def from_torch(
    source: Any, family: str | None = None, prefix: str | None = None, **said: Any
) -> InMemory:
    """Our model with the weights of a PyTorch model.

    Args:
      source: A `torch.nn.Module` of timm, transformers or a family's own code, or its state dict.
        A module tells its heads, epsilon and non-linearity; a state dict does not.
      family: A name in `regvit_jax.convert.dialects.DIALECTS`; None recognises it.
      prefix: What the names of the network start with; None finds it.
      said: Fields of `regvit_jax.convert.choices.Choices`: num_heads, mean, std, crop, ...

    Raises:
      InputError: If it is no model of a known family.
    """
    from regvit_jax.checkpoint import CheckpointInfo, unflatten
    from regvit_jax.model import DeiT3

    state = source.state_dict() if hasattr(source, "state_dict") else source
    if not isinstance(state, Mapping) or not state:
        raise InputError(
            f"from_torch takes a PyTorch model or its state dict, got {type(source).__name__}."
        )
    facts = {} if state is source else _facts(source)
    weights = _weights(state, family, prefix, facts)
    choices = Choices(**said)
    decision = decide(weights, _LABEL, family, choices)
    match = decision.match
    params = to_ours(weights.tensors, match.dialect, match.config, _LABEL)
    info = CheckpointInfo(
        model=match.config,
        source={
            "format": weights.format,
            "family": match.family,
            "prefix": weights.prefix,
            "left_out": [*match.dropped, *weights.left_out, *decision.left_out],
            "said": decision.said,
            "given": choices.said,
            "assumed": [item._asdict() for item in decision.assumed],
        },
        class_names=decision.class_names,
        preprocess=decision.preprocess,
    )
    # Copies: PyTorch may go on training its own.
    own = {name: np.array(value) for name, value in params.items()}
    return InMemory(DeiT3(match.config), unflatten(own), info)


def _weights(
    state: Mapping[str, Any], family: str | None, prefix: str | None, facts: Facts
) -> Weights:
    """The network among the tensors of a state dict."""
    if odd := [str(name) for name, value in state.items() if not hasattr(value, "shape")]:
        raise InputError(f"A state dict holds tensors, but {odd[0]} of this one is none.")
    names = clean(state, _LABEL)
    tensors = {short: _stored(state[name]) for short, name in names.items()}
    chosen = choose(tensors, Wanted(family, None, prefix), _LABEL)
    return Weights(
        files=(),
        format="PyTorch model in memory",
        tensors=chosen.tensors,
        facts=facts,
        prefix=chosen.prefix,
        left_out=tuple(chosen.left_out),
        passed_over=tuple(chosen.passed_over),
    )


def _stored(tensor: Any) -> Stored:
    """A tensor of torch's or NumPy's, not yet copied from its device."""

    def read() -> np.ndarray:
        if hasattr(tensor, "detach"):
            return tensor.detach().to("cpu").float().numpy()
        return np.asarray(tensor)

    return Stored(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read)


def _facts(module: Any) -> Facts:
    """What a module says of itself: transformers' configuration, or what its parts are."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_json_string"):
        label = "the model's config"
        return model_facts(
            strict_json.parse_json(config.to_json_string(use_diff=False), label), label
        )
    found: Facts = {}
    for part in module.modules():
        kind = type(part).__name__
        if kind == "ResPostBlock":
            raise InputError(
                "The PyTorch model has blocks whose norms come after attention and MLP (timm's rpn "
                "models); ours come before. No model of ours equals it."
            )
        if isinstance(getattr(part, "num_heads", None), int):
            found.setdefault("num_heads", Fact(part.num_heads, f"the model: {kind}.num_heads"))
        if kind in ("LayerNorm", "RmsNorm", "RMSNorm") and isinstance(part.eps, float):
            found.setdefault("layer_norm_epsilon", Fact(part.eps, f"the model: {kind}.eps"))
        if kind == "GELU":
            approximation = getattr(part, "approximate", "none")
            found.setdefault("mlp", Fact(_GELUS[approximation], "the model: GELU.approximate"))
        if kind in ("QuickGELU", "GELUTanh"):
            name = {"QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh"}[kind]
            found.setdefault("mlp", Fact(name, f"the model: {kind}"))
    if isinstance(pool := getattr(module, "global_pool", None), str):
        found["pooling"] = Fact(pool, "the model: global_pool")
    trained = getattr(module, "pretrained_cfg", None)
    if isinstance(trained, Mapping):
        said = Statement(dict(trained), "the model", "pretrained_cfg")
        found |= {name: fact for name, fact in pixel_facts(said).items() if name != "image_size"}
    return found
