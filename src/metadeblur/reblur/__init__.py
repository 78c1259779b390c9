"""Reblurrers: optical flow or the paper's network make pseudo-blurred patches."""
