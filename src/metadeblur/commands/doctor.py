"""``metadeblur doctor``: what this machine and installation can do."""

from __future__ import annotations

from dataclasses import dataclass

ENCODERS = ("libx264", "libx265", "libsvtav1", "libaom-av1", "libvpx-vp9", "ffv1", "prores_ks", "h264_nvenc")


@dataclass(frozen=True)
class Doctor:
    """Say what this machine and installation can do: versions, device, precision, encoders, memory."""

    def run(self) -> None:
        """Print one line a fact."""
        for name, value in facts().items():
            print(f"{name:<24}{value}")


def facts() -> dict[str, str]:
    """What there is to know, in the order it is printed."""
    from av import library_versions

    from metadeblur.memory import available_bytes
    from metadeblur.record import machine, versions
    from metadeblur.restore import choose_device, has_native_bf16
    from metadeblur.weights import BUILT_IN, built_in_path

    device, host = choose_device("auto"), machine()
    encoders = [name for name in ENCODERS if _can_encode(name)]
    missing = [name for name in BUILT_IN if not built_in_path(name).is_file()]
    return {
        **versions(),
        "ffmpeg": ", ".join(
            f"{name} {'.'.join(map(str, number))}" for name, number in sorted(library_versions.items())
        ),
        "system": host["system"],
        "processor": f"{host['processor']}, {host['cpus']} CPUs, {host['threads']} threads used",
        "memory": f"{_gigabytes((host['memory_mb'] or 0) << 20)} in all, {_gigabytes(available_bytes(device))} to use",
        "gpu": host["gpu"] or "none that PyTorch can use",
        "device": f"{device.type} (what --device auto takes)",
        "native bf16": "yes" if has_native_bf16(device) else "no (fp32 is used)",
        "encoders": ", ".join(encoders) or "none: videos cannot be written",
        "built-in weights": "all there" if not missing else f"MISSING: {', '.join(missing)}; install metadeblur again",
    }


def _can_encode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GB"
