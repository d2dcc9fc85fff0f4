"""Only video containers are opened, and no file beside the one that was named."""

import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isrdpo.core.errors import VideoError
from isrdpo.formats.containers import container_of
from isrdpo.formats.video import DecodeLimits, clip_seconds, read_clip
from tests.video_files import Kind, write_video

KINDS = [
    Kind("mp4", "libx264"),
    Kind("mov", "mjpeg", pixels="yuvj420p"),
    Kind("matroska", "libx264"),
    Kind("webm", "libvpx", {"deadline": "realtime"}),
    Kind("avi", "mpeg4"),
    Kind("mpegts", "mpeg2video"),
    Kind("mpeg", "mpeg1video"),
    Kind("flv", "flv"),
    Kind("gif", "gif", pixels="rgb8"),
]
HEADER = 4096  # bytes, of which headers and tables are
PROGRAMS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{other}\n#EXT-X-ENDLIST\n",
    "a live playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{other}\n",
    "concat": "ffconcat version 1.0\nfile {other}\n",
    "concat of itself": "ffconcat version 1.0\nfile a.mp4\n",
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><BaseURL>{other}'
    "</BaseURL></MPD>",
    "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>{other}</Id></CompositionPlaylist>',
    "asx": '<asx version="3.0"><entry><ref href="{other}"/></entry></asx>',
    "ffmetadata": ";FFMETADATA1\ntitle={other}\n",
    "rtsp": "rtsptext\nrtsp://127.0.0.1/{other}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{other}"/></svg>',
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A video of each kind, by the container's name."""
    folder = tmp_path_factory.mktemp("videos")
    for kind in KINDS:
        write_video(folder / kind.container, kind, count=12)
    return {kind.container: (folder / kind.container).read_bytes() for kind in KINDS}


def test_a_container_is_known_by_its_first_bytes(videos: dict[str, bytes]) -> None:
    demuxers = {name: container_of(content[:600]) for name, content in videos.items()}
    assert demuxers == {name: name for name in videos} | {"mp4": "mov", "webm": "matroska"}
    assert container_of(b"") is container_of(b"RIFF....WAVE") is container_of(b"G" + bytes(600)) is None


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS.keys())
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".avi"])
def test_a_text_that_names_another_file_is_no_video(
    tmp_path: Path, videos: dict[str, bytes], text: str, suffix: str
) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(videos["mpegts"])
    path = tmp_path / f"a{suffix}"
    path.write_text(text.format(other=secret))
    for read in (lambda: read_clip(path, 8), lambda: clip_seconds(path)):
        with pytest.raises(VideoError, match="its first bytes are of no video container"):
            read()


@pytest.mark.parametrize(
    "begin", [b"\0\0\0\x14ftypisom\0\0\0\0isom", b"G" + b"G" * 600, b"\x1aE\xdf\xa3", b"GIF89a"]
)
def test_a_text_behind_a_containers_first_bytes_is_no_video(
    tmp_path: Path, videos: dict[str, bytes], begin: bytes
) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(videos["mpegts"])
    path = tmp_path / "a.mp4"
    path.write_bytes(begin + PROGRAMS["hls"].format(other=secret).encode() * 20)
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        read_clip(path, 8)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_picture_behind_a_videos_suffix_is_no_video(tmp_path: Path, form: str) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.mp4", format=form)
    with pytest.raises(VideoError, match="its first bytes are of no video container"):
        read_clip(tmp_path / "a.mp4", 8)


def test_the_cover_of_a_sound_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    cover = np.zeros((48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height = 64, 48
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        container.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 8000
        container.mux(sound.encode(tone))
        container.mux(sound.encode())
    with pytest.raises(VideoError, match=r"song\.mp4: not a readable video \(no stream of frames in it\)"):
        read_clip(path, 8)


def test_what_is_no_regular_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "frame_1.png")
    for path in (tmp_path / "pipe.mp4", tmp_path / "device.mp4"):
        for read in (lambda path=path: read_clip(path, 8), lambda path=path: clip_seconds(path)):
            with pytest.raises(VideoError, match="neither a file nor a folder"):
                read()
    with pytest.raises(VideoError, match=r"frame_1\.png: not a regular file"):
        read_clip(tmp_path, 8)


def test_enormous_frames_are_refused_before_they_are_decoded(
    tmp_path: Path, videos: dict[str, bytes]
) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + videos["gif"][10:])
    with pytest.raises(VideoError, match=r"a\.gif: "):
        read_clip(tmp_path / "a.gif", 8)
    jpeg = bytearray(videos["mov"])
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "a.mov").write_bytes(jpeg)
    with pytest.raises(VideoError, match=r"a\.mov: "):
        read_clip(tmp_path / "a.mov", 8)


@pytest.mark.parametrize("table", [b"stts", b"stsz", b"stsc", b"ctts", b"stco", b"elst", b"stss"])
@pytest.mark.parametrize("count", [0x7FFFFFFF, 0xFFFFFFFF, 0x01000000])
def test_tables_of_endless_length_take_neither_time_nor_memory(
    tmp_path: Path, videos: dict[str, bytes], table: bytes, count: int
) -> None:
    content = bytearray(videos["mp4"])
    begin = content.index(table) + 8  # behind the name, the version and the flags
    content[begin : begin + 4] = struct.pack(">I", count)
    if table == b"stts":
        content[begin : begin + 8] = struct.pack(">II", 1, count)
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    try:
        assert len(read_clip(path, 8, limits=DecodeLimits(seconds=20, memory=1)).frames) == 8
    except VideoError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_changed_file_is_a_clip_or_one_clear_line(
    data: st.DataObject, videos: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Headers are changed at random: no crash, no wait, and no file is opened beside it."""
    content = bytearray(videos[data.draw(st.sampled_from(sorted(videos)))])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), HEADER) - 1))
        new = data.draw(st.binary(max_size=8))
        content[place : place + data.draw(st.sampled_from([0, len(new)]))] = new
    path = tmp_path_factory.getbasetemp() / "changed"
    path.write_bytes(content)
    try:
        clip = read_clip(path, 4, limits=DecodeLimits(seconds=20, memory=2))
    except VideoError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return
    assert len(clip.frames) == len(clip.times) == 4 and clip.frames.dtype == np.uint8
    assert (
        clip.indices[-1] < clip.count and np.isfinite(clip.times).all() and (np.diff(clip.times) >= 0).all()
    )
