"""Which parameters of G a run trains."""

from __future__ import annotations

from torch import nn

from sg3.errors import UserError
from sg3.networks.layer_units import layer_names, tensors_by_layer
from sg3.training.config import TrainConfig


def trained_parameters(G: nn.Module, config: TrainConfig) -> list[nn.Parameter]:
    """Return the parameters of G that `freeze_mapping` and `freeze_g` leave.

    A frozen layer includes its affine layer and its noise strength. Its moving averages (the
    input's magnitude in StyleGAN3) go on, as they do in a frozen D of the official trainer.

    Raises ValueError unless at least the last layer (ToRGB) is left.
    """
    names = layer_names(G)
    if config.freeze_g >= len(names):
        raise UserError(
            f"freeze_g: got {config.freeze_g}, expected at most {len(names) - 1}: the layers of "
            f"this G are {', '.join(names)}"
        )
    tensors = tensors_by_layer(G)
    frozen = {name for layer in names[: config.freeze_g] for name in tensors[layer]}
    if config.freeze_mapping:
        frozen |= set(tensors["mapping"])
    return [parameter for name, parameter in G.named_parameters() if name not in frozen]
