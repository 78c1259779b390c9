"""Networks and weights: the registry, one file a network, losses, weight files."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    adapted="AdaptedModel FusionSettings fusion_of unwrapped with_fusion",
    deblurrer="Deblurrer as_deblurrer from_spandrel has_spandrel",
    forward="frozen in_float32 own_loss picture_of trainable try_network uses_bf16 whole_picture",
    pretrained="from_pretrained save_pretrained",
    rates="set_step_rates step_rates",
    registry="ARCHITECTURES Architecture Loss Traits final outputs recognise traits",
    weights="load_deblurrer parameters_digest read_reblurrer read_weights save_deblurrer",
)
