"""From the name of a video in a row to its file or folder of frames, which never lies outside the folder of
videos.
"""

from pathlib import Path

from isrdpo.core.errors import VideoError

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".gif")
PICTURES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


def find_clip(root: Path, name: str) -> Path:
    """The file or folder of frames that `name` stands for under `root`, with or without the extension it
    should have.

    Raises VideoError where there is none, and where the path or a link in it leads out of `root`.
    """
    top = root.resolve()
    try:
        exact = root / name
        # Only a video's suffix is one: AO8RW_0.5 is not another clip of AO8RW_0.
        without_suffix = [exact.with_suffix("")] if exact.suffix.lower() in SUFFIXES else []
        with_suffix = [exact.with_name(exact.name + suffix) for suffix in SUFFIXES]
        for candidate in (exact, *without_suffix, *with_suffix):
            if not candidate.resolve().is_relative_to(top):
                raise VideoError(f"{name!r} leads out of the video folder {root}")
            if candidate.is_file():
                return candidate
            if candidate.resolve() != top and frame_files(candidate):
                _refuse_foreign_links(candidate, top, name, root)
                return candidate
    except VideoError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, empty, a null byte, a loop of links
        raise VideoError(f"{name[:80]!r} is not a usable path ({error})") from error
    raise VideoError(f"{root / name}: no such video (nor with {', '.join(SUFFIXES)}, nor a folder of frames)")


def _refuse_foreign_links(folder: Path, top: Path, name: str, root: Path) -> None:
    """Raise VideoError where a frame is a link to a file that does not lie below `top`."""
    for frame in frame_files(folder):
        if frame.is_symlink() and not frame.resolve().is_relative_to(top):
            raise VideoError(f"{name!r} holds links that lead out of the video folder {root}")


def frame_files(folder: Path) -> list[Path]:
    """A folder's frames in lexicographic order; none where it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.name[0] != "."
    )
