"""A network that was adapted to a clip: its weights, and how its restored frames are fused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from metadeblur.limits import Pixels, Positive, Within, check, spelt
from metadeblur.types import Response


@spelt
@dataclass(frozen=True)
class FusionSettings:
    """How neighbours are weighed; chosen on synthetic clips and on clips rendered from sharp video, never on val."""

    radius: Annotated[int, Within(1, 1000)] = 5  # neighbours to each side
    # weight of a neighbour that is just as sharp and agrees fully; the frame itself has 1
    share: Annotated[float, Within(0, 1, above=True)] = 0.2
    # power of the ratio of local gradient energy, neighbour's to frame's
    detail: Annotated[float, Within(0, 100)] = 3.0
    # power of the ratio of local change by the network, frame's to neighbour's
    change: Annotated[float, Within(0, 100)] = 1.0
    most: Positive = 15.0  # times its share that a better neighbour may count at most
    floor: Positive = 0.005  # difference (of the range 0..1) that is allowed where the network changed nothing
    allowed: Positive = 0.4  # share of what the network changed, in squares, that a neighbour may differ by
    flow_px: Positive = 1.0  # disagreement of the flow there and the flow back at which trust has fallen to 1/e
    pixels: Pixels = 256_000  # px: flow, weights and corrections are worked out on pictures reduced to about this
    # frame intervals that the shutter was open; known: frames are corrected by it too
    exposure: Annotated[float, Within(0, 2, above=True)] | None = None
    response: Response = "srgb"  # how display values depend on light

    def __post_init__(self) -> None:
        check(self)


class AdaptedModel(nn.Module):
    """A deblurrer whose restored frames are fused with their neighbours (:mod:`metadeblur.restoration.fusion`).

    It computes what the network computes, and answers for it: attributes that it lacks are the network's, and its
    parameters, buffers and state dict have the network's names, without a prefix. So weights go from either to the
    other, also where the model is a part of a larger module.

    Args:
        net: the deblurrer; not copied.
        fusion: how frames are fused.

    >>> model = AdaptedModel(nn.Linear(1, 1), FusionSettings(radius=1))
    >>> list(model.state_dict()), model.in_features, fusion_of(nn.Sequential(model)).radius
    (['weight', 'bias'], 1, 1)
    """

    net: nn.Module

    def __init__(self, net: nn.Module, fusion: FusionSettings) -> None:
        super().__init__()
        self.net = net
        self.fusion = fusion
        self.training = net.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        return self.net(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # While a copy or a pickle is built there is no network yet.
            net = self.__dict__.get("_modules", {}).get("net")
            if net is None:
                raise
            return getattr(net, name)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """The model, then the network's modules by the network's names: all names of weights come from these."""
        memo = set() if memo is None else memo
        if self not in memo:
            if remove_duplicate:
                memo.add(self)
            yield prefix, self
            yield from self.net.named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The network's state dict."""
        return self.net.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}net.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def with_fusion(net: nn.Module, fusion: FusionSettings | None) -> nn.Module:
    """The network as a model whose frames are fused; None: the network alone. An earlier fusion is replaced."""
    bare = unwrapped(net)
    return bare if fusion is None else AdaptedModel(bare, fusion)


def fusion_of(net: nn.Module) -> FusionSettings | None:
    """How frames that this network restored are fused, also where it is wrapped, or compiled; None: not at all."""
    return next((module.fusion for module in net.modules() if isinstance(module, AdaptedModel)), None)


def unwrapped(net: nn.Module) -> nn.Module:
    """The network of an :class:`AdaptedModel`; any other is itself."""
    return unwrapped(net.net) if isinstance(net, AdaptedModel) else net
