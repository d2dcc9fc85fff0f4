"""Videos that are to be shown turned or mirrored."""

from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from isrdpo.core.errors import VideoError
from isrdpo.formats.video import read_clip
from tests.video_files import patch_matrix

CORNERS = np.array([[30, 90], [150, 220]])  # gray of the stored picture's quarters
WIDTH, HEIGHT = 64, 32
QUARTERS = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)]
TURNED = [(0, b, c, 0) for b, c in product((1, -1), repeat=2)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An mp4 file whose quarters have the grays of CORNERS."""
    path = tmp_path_factory.mktemp("stored") / "clip.mp4"
    gray = np.kron(CORNERS, np.ones((HEIGHT // 2, WIDTH // 2))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv420p"
        for _ in range(4):
            picture = np.repeat(gray[:, :, None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def corners(picture: np.ndarray) -> np.ndarray:
    """The grays in the middles of a picture's quarters."""
    height, width = picture.shape[:2]
    return picture[height // 4 :: height // 2, width // 4 :: width // 2, 0].astype(int)


def shown(matrix: tuple[int, int, int, int]) -> np.ndarray:
    """CORNERS as a display matrix places them: (x, y) is shown at (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    places = {(a * x + c * y, b * x + d * y): CORNERS[y, x] for x, y in product((0, 1), repeat=2)}
    columns = sorted({place[0] for place in places})
    rows = sorted({place[1] for place in places})
    return np.array([[places[column, row] for column in columns] for row in rows])


@pytest.mark.parametrize("matrix", QUARTERS + TURNED, ids=str)
def test_a_frame_is_upright(tmp_path: Path, stored: bytes, matrix: tuple[int, int, int, int]) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(patch_matrix(stored, matrix))
    clip = read_clip(path, 3)
    size = (HEIGHT, WIDTH) if matrix in QUARTERS else (WIDTH, HEIGHT)
    assert clip.frames.shape == (3, *size, 3)
    for frame in clip.frames:
        np.testing.assert_allclose(corners(frame), shown(matrix), atol=6)


def test_a_quarter_turn_clockwise_brings_the_top_to_the_right(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "phone.mp4"
    path.write_bytes(patch_matrix(stored, (0, 1, -1, 0)))
    np.testing.assert_allclose(corners(read_clip(path, 1).frames[0]), [[150, 30], [220, 90]], atol=6)


def test_other_angles_are_refused(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "slanted.mp4"
    path.write_bytes(patch_matrix(stored, (1, 1, -1, 1)))
    with pytest.raises(VideoError, match=r"slanted\.mp4: to be shown turned by 45 degrees"):
        read_clip(path, 3)


def test_a_matrix_of_zeros_says_nothing(tmp_path: Path, stored: bytes) -> None:
    path = tmp_path / "zeros.mp4"
    path.write_bytes(patch_matrix(stored, (0, 0, 0, 0)))
    np.testing.assert_allclose(corners(read_clip(path, 1).frames[0]), CORNERS, atol=6)
