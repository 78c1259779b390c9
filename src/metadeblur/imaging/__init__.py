"""Pure functions of pictures: flow, motion, sharpness, light, noise, quality, tiles."""

from metadeblur.exports import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    brightness="Match changes differs match matched_window small_frame",
    clip_cache="ClipCache",
    linear_light="RESPONSES to_display to_linear",
    motion="ClipMotion MotionField parabola steady",
    noise="draw_noise estimate_noise",
    optical_flow="dense_flow trust warp window_flows",
    pictures="Picture encode_jpeg encode_png heat_map shrink side_by_side to_uint8",
    quality="AlignedFigures aligned_psnr_ssim colour_shift dis_flow flicker psnr ringing ssim warp_frame",
    sharpness="IDENTICAL_DB score_places self_shift_map self_shift_score",
    tiles="pad_to_multiple spans",
)
