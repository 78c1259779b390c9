"""ComfyUI node "Deblur video (metadeblur)": motion blur of a batch of frames removed as ``metadeblur restore`` does."""

from .node import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
