"""Read and write video files and folders of frames; sound, subtitles and all other streams are copied.

Reading: :func:`probe`, :class:`VideoReader`, :func:`read_clip`. Writing: :class:`SegmentWriter` encodes the shots of a
video one by one, :func:`assemble` joins them and adds the rest of the source; :func:`write_clip` does both at once.
A :class:`Part` of a video is read as if it were all of it.
"""

from metadeblur.system.files import check_writable, whole
from metadeblur.video.assembly import assemble, check_output, write_clip
from metadeblur.video.colour import ColourTags
from metadeblur.video.encoding import EncodeSettings, default_suffix, output_kind
from metadeblur.video.info import VideoInfo, probe
from metadeblur.video.part import Part
from metadeblur.video.reading import Decoded, VideoReader, read_clip, reader_clip
from metadeblur.video.segments import SegmentWriter
from metadeblur.video.timing import TimeTable, TimeTableBuilder

__all__ = [
    "ColourTags",
    "Decoded",
    "EncodeSettings",
    "Part",
    "SegmentWriter",
    "TimeTable",
    "TimeTableBuilder",
    "VideoInfo",
    "VideoReader",
    "assemble",
    "check_output",
    "check_writable",
    "default_suffix",
    "output_kind",
    "probe",
    "read_clip",
    "reader_clip",
    "whole",
    "write_clip",
]
