"""Training losses, pure functions that return a scalar.

Most are of (output, target), both (B, 3, H, W) in about [0, 1]; those of networks with several outputs take them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from metadeblur.errors import MetadeblurError
from metadeblur.types import AdversarialKind


def charbonnier(output: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + eps^2): L1 that is smooth near zero (Lai et al., CVPR 2017, eq. 3).

    >>> round(charbonnier(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).item(), 4)
    0.5
    """
    return torch.sqrt((output - target).square() + eps * eps).mean()


def psnr_loss(output: Tensor, target: Tensor, floor: float = 3e-5) -> Tensor:
    """Minus PSNR / 10, mean over the images of the batch: log10 of the mean squared error above a ``floor``.

    Every picture counts by the share of its error that goes, not by how blurred it is; the floor (45 dB) keeps pictures
    that are sharp already from outweighing the rest.

    >>> round(psnr_loss(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)).item(), 3)
    -1.999
    """
    error = (output - target).square().flatten(1).mean(1)
    return torch.log10(error + floor).mean()


def balanced(output: Tensor, target: Tensor) -> Tensor:
    """Charbonnier plus 0.02 of the PSNR loss: strong blur leads, and pictures that are nearly sharp are not spoilt.

    >>> near, far = (balanced(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), d)).item() for d in (0.01, 0.1))
    >>> round(near, 3), round(far, 3)
    (-0.068, 0.06)
    """
    return charbonnier(output, target) + 0.02 * psnr_loss(output, target)


def laplacian(pictures: Tensor) -> Tensor:
    """One level of the Laplacian pyramid of (B, C, H, W), same shape (Burt & Adelson, 1983).

    The picture less its 5x5 Gaussian, of which every other row and column is dropped and filled in by the Gaussian
    again. Borders repeat, at each of the two Gaussians, so that the rim of a flat picture is not zero.

    >>> laplacian(torch.ones(1, 1, 9, 9))[..., 4:6, 4:6].abs().max().item() < 1e-6
    True
    """
    channels = pictures.shape[1]
    line = pictures.new_tensor([0.05, 0.25, 0.4, 0.25, 0.05])
    kernel = torch.outer(line, line).expand(channels, 1, 5, 5)

    def gaussian(maps: Tensor) -> Tensor:
        return F.conv2d(F.pad(maps, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)

    kept = torch.zeros_like(pictures)
    kept[..., ::2, ::2] = 4 * gaussian(pictures)[..., ::2, ::2]
    return pictures - gaussian(kept)


def edge(output: Tensor, target: Tensor) -> Tensor:
    """Charbonnier loss between the Laplacians of two pictures (Zamir et al., MPRNet, CVPR 2021, eq. 4).

    >>> point = F.pad(torch.ones(1, 3, 1, 1), (4, 4, 4, 4))
    >>> round(edge(point, point).item(), 4), edge(point, 0 * point) > edge(point, 0.5 * point)
    (0.001, tensor(True))
    """
    return charbonnier(laplacian(output), laplacian(target))


def charbonnier_edge(outputs: Tensor | Sequence[Tensor], target: Tensor, edge_weight: float = 0.05) -> Tensor:
    """MPRNet's loss: Charbonnier + 0.05 edge, summed over the stages' outputs (Zamir et al., CVPR 2021, eq. 2).

    >>> stage = torch.zeros(1, 3, 8, 8)
    >>> round(charbonnier_edge([stage, stage], stage).item(), 5)
    0.0021
    """
    terms = [charbonnier(output, target) + edge_weight * edge(output, target) for output in _several(outputs)]
    return torch.stack(terms).sum()


def multiscale_fft(
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    fft_weight: float = 0.1,
    transform: Literal["2d", "1d"] = "2d",
) -> Tensor:
    """MIMO-UNet's loss: L1 plus 0.1 of the L1 between spectra, summed over the scales (Cho et al., ICCV 2021, eq. 6-8).

    Args:
        outputs: of any number of scales, in any order; the target is reduced to the size of each.
        target: at full size.
        fft_weight: of the spectra's term.
        transform: ``2d``, as the authors of MIMO-UNet: over rows and columns, real and imaginary parts as separate
            numbers. ``1d``, as the release of "Meta Transferring for Deblurring" (docs/fidelity.md, FFT loss): over the
            width alone, modulus of the difference.

    >>> picture = torch.zeros(1, 1, 4, 4)
    >>> round(multiscale_fft(picture, picture + 1).item(), 4)
    1.05
    """
    terms = []
    for output in _several(outputs):
        difference = (output - _reduced(target, output)).float()
        if transform == "2d":
            spectrum = torch.view_as_real(torch.fft.fft2(difference))
        elif transform == "1d":
            spectrum = torch.fft.fft(difference)
        else:
            raise MetadeblurError(f"transform {transform!r} of multiscale_fft is not known: use '2d' or '1d'")
        terms.append(difference.abs().mean() + fft_weight * spectrum.abs().mean())
    return torch.stack(terms).sum()


def charbonnier_fft(output: Tensor, target: Tensor, fft_weight: float = 0.1) -> Tensor:
    """MAXIM's loss on one output: Charbonnier plus 0.1 of the L1 between spectra (Tu et al., CVPR 2022, eq. 4-6).

    The paper does not say how the spectrum's L1 is scaled: this is the mean over real and imaginary parts of the 2-D
    transform, as in MIMO-UNet's loss, which it cites.

    >>> picture = torch.zeros(1, 1, 4, 4)
    >>> round(charbonnier_fft(picture, picture + 1).item(), 4)
    1.05
    """
    spectrum = torch.view_as_real(torch.fft.fft2((output - target).float()))
    return charbonnier(output, target) + fft_weight * spectrum.abs().mean()


def _several(outputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def _reduced(target: Tensor, output: Tensor) -> Tensor:
    """The target at an output's size, bilinear without anti-aliasing, as MIMO-UNet was trained."""
    size = output.shape[-2:]
    return target if target.shape[-2:] == size else F.interpolate(target, size=size, mode="bilinear")


def hard_example_mask(
    output: Tensor,
    target: Tensor,
    hard: float = 0.5,
    random: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """1 at the hardest pixels and at some random ones, else 0: (B, 1, H, W), no gradient.

    Args:
        output: (B, C, H, W).
        target: the same shape.
        hard: share of each image's pixels with the largest error, summed over the channels.
        random: share of pixels drawn at random in addition; they may be hard ones too.
        generator: of the random ones, on the CPU; torch's own if not given.

    >>> error = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> hard_example_mask(error, torch.zeros_like(error), random=0).flatten().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    error = (output.detach() - target.detach()).abs().sum(dim=1).flatten(1)
    count = error.shape[1]
    # Strictly above the value at this place of the descending order, as published: none where all errors are equal.
    place = int(hard * count)
    bound = error.sort(dim=1, descending=True).values[:, min(place, count - 1), None]
    mask = error > bound if place < count else torch.ones_like(error, dtype=torch.bool)
    order = torch.rand(error.shape, generator=generator).argsort(dim=1)
    drawn = torch.zeros(error.shape, dtype=torch.bool).scatter_(1, order[:, : int(random * count)], True)
    mask = mask | drawn.to(mask.device)
    return mask.to(output.dtype).reshape(len(output), 1, *output.shape[-2:])


def masked_l1(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of mask * |output - target| over ALL values: those outside the mask count as zero."""
    return (mask * (output - target)).abs().mean()


def l1_hard_example(
    outputs: Sequence[Tensor],
    frames: Tensor,
    hard_weight: float = 2.0,
    random: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """CDVD-TSP's loss: L1 + 2 HEM over the four restored frames together (Pan et al., CVPR 2020).

    HEM is hard-example mining (Xu et al., 2019). Where only the centre has a sharp picture, as in adaptation, both its
    pictures count and its neighbours' do not: blurred targets would teach the first pass to leave blur alone.

    Args:
        outputs: frames 1, 2 and 3 of the first pass and the centre of the second, each (B, 3, H, W).
        frames: the five sharp frames, (B, 5, 3, H, W), of which 1, 2, 3 and 2 are wanted, counted from 0; or the centre
            alone, (B, 3, H, W).
        hard_weight: of the hard-example term.
        random: share of pixels that it draws at random.
        generator: for these.

    >>> round(l1_hard_example([torch.zeros(1, 3, 2, 2)] * 4, torch.ones(1, 5, 3, 2, 2), random=0).item(), 4)
    1.0
    """
    if frames.ndim == 4:
        output, target = torch.cat([outputs[1], outputs[3]], dim=1), torch.cat([frames, frames], dim=1)
    else:
        output, target = torch.cat(list(outputs), dim=1), frames[:, [1, 2, 3, 2]].flatten(1, 2)
    mask = hard_example_mask(output, target, random=random, generator=generator)
    return F.l1_loss(output, target) + hard_weight * masked_l1(output, target, mask)


def drawn_hard_example(outputs: Sequence[Tensor], frames: Tensor) -> Tensor:
    """CDVD-TSP's loss (:func:`l1_hard_example`) whose random pixels are other ones at every step.

    They are drawn by a seed that the restored picture itself gives, so nothing but what the network is fed and its
    weights decides them: a run that is gone on with, and an adaptation with the same seed, draw the same.

    >>> pictures, sharp = [torch.rand(1, 3, 8, 8) for _ in range(4)], torch.rand(1, 3, 8, 8)
    >>> bool(drawn_hard_example(pictures, sharp) == drawn_hard_example(pictures, sharp))
    True
    """
    seed = int(outputs[-1].detach().double().sum().cpu().view(torch.int64)) & (2**63 - 1)
    return l1_hard_example(outputs, frames, generator=torch.Generator().manual_seed(seed))


def critic_loss(real: Tensor, fake: Tensor, kind: AdversarialKind = "wgan") -> Tensor:
    """The critic's loss, from its scores of real and of generated pictures.

    Args:
        real: scores of real pictures, any shape.
        fake: scores of made pictures, whose gradient must end before their maker.
        kind: ``wgan`` (Arjovsky et al., 2017; the critic's weights must then be clipped), ``hinge`` (Lim & Ye, 2017)
            or ``lsgan``, least squares to 1 and 0 (Mao et al., ICCV 2017).

    >>> [critic_loss(torch.tensor([0.5]), torch.tensor([-0.5]), kind).item() for kind in ("wgan", "hinge", "lsgan")]
    [-1.0, 1.0, 0.25]
    """
    if kind == "wgan":
        return fake.mean() - real.mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "lsgan":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    raise _unknown(kind)


def generator_loss(fake: Tensor, kind: AdversarialKind = "wgan") -> Tensor:
    """The adversarial term L_adv of the generator, from the critic's scores of its pictures.

    >>> [generator_loss(torch.tensor([0.5]), kind).item() for kind in ("wgan", "hinge", "lsgan")]
    [-0.5, -0.5, 0.125]
    """
    if kind in ("wgan", "hinge"):
        return -fake.mean()
    if kind == "lsgan":
        return 0.5 * (fake - 1).square().mean()
    raise _unknown(kind)


def _unknown(kind: str) -> MetadeblurError:
    return MetadeblurError(f"adversarial loss {kind!r} is not known: use {', '.join(get_args(AdversarialKind))}")


def cycle(deblur_loss: Callable[[Tensor, Tensor], Tensor], reblurred: Tensor, sharp: Tensor) -> Tensor:
    """The cycle term L_cycle: what is reblurred and deblurred again is the sharp patch ("Meta Transferring", eq. 4).

    Args:
        deblur_loss: of (blurred, sharp) patches: the deblurrer's own loss on what it makes of the blurred one. The
            gradient passes through the deblurrer; that its weights stay is the caller's part (docs/fidelity.md,
            deblurrer frozen).
        reblurred: (B, 3, H, W), clamped to [0, 1] here, so that values outside pass no gradient.
        sharp: the pseudo-sharp patch, (B, 3, H, W).

    >>> cycle(F.l1_loss, torch.full((1, 3, 2, 2), 1.5), torch.full((1, 3, 2, 2), 0.75)).item()
    0.25
    """
    return deblur_loss(reblurred.clamp(0, 1), sharp)
