"""Reading photo files of any usual kind as upright 8-bit RGB images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from gair_core.errors import BadInputError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files that `open_photo` reads."""

DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged or hostile files; it has no common base class for them."""

# JPEG includes MPO, which many phones write under the suffix .jpg.
_FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP")
_ORIENTATION: Final = 0x0112
_PHOTOMETRIC: Final = 0x0106
_TO_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_photo(path: str | Path) -> Image.Image:
    """Read a photo as people see it: upright, in RGB, 8 bits.

    The first frame is taken. Transparent pixels are laid over white. 16-bit values keep their upper byte,
    which is exact for 8-bit values that were widened in either usual way (v * 257 or v * 256) and what
    Pillow does for colour. Colour profiles are not applied, as in the encoder's training.

    Args:
        path: A JPEG (MPO too), PNG, TIFF or WebP file in any of the eight EXIF orientations; greyscale,
            palette, CMYK, with alpha, 1 to 16 bits.

    Returns:
        A loaded image of mode RGB; the file is closed.

    Raises:
        BadInputError: Names the file that is missing, foreign, damaged or of a kind without a defined
            8-bit picture (32-bit integers, floating point, CIELAB).
    """
    path = Path(path)
    with open_image(path) as image:
        try:
            image.load()
            # After loading: Pillow turns a TIFF itself, and then no longer reports an orientation.
            orientation = _orientation(image)
            rgb = _to_rgb(image, path)
            method = _TO_UPRIGHT.get(orientation)
            return rgb if method is None else rgb.transpose(method)
        except BadInputError:
            raise
        except DAMAGE as error:
            raise _damaged(path, error) from error


def open_image(path: Path) -> Image.Image:
    """Open a photo without decoding its pixels; the caller closes it.

    Raises:
        BadInputError: Names the file that is missing or no photo.
    """
    if path.is_dir():
        raise BadInputError(f"{path} is a folder, not a photo.")
    try:
        return Image.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise BadInputError(
            f"The photo {path} does not exist.", "Check the path and its base folder."
        ) from None
    except PermissionError:
        raise BadInputError(f"The photo {path} may not be read.", "Check its permissions.") from None
    except UnidentifiedImageError:
        raise BadInputError(
            f"{path} is not a photo that can be read; JPEG, PNG, TIFF and WebP can.",
            "Convert other kinds, such as HEIC, to JPEG.",
        ) from None
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> BadInputError:
    return BadInputError(
        f"The photo {path} is damaged or cut off ({error}).", "Copy it again from its source."
    )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:  # The pixels may be sound although the tags are not.
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I"):
        return _upper_byte(image, path).convert("RGB")
    if image.mode in ("F", "LAB"):
        raise BadInputError(
            f"The photo {path} has pixels of mode {image.mode}, which have no defined 8-bit RGB picture.",
            "Convert it to an 8-bit RGB image.",
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _upper_byte(image: Image.Image, path: Path) -> Image.Image:
    """Return a 16-bit grey image in 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    # Older versions of Pillow open 16-bit PNG files as 32-bit integers.
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise BadInputError(
            f"The photo {path} has integers from {values.min()} to {values.max()}; 8 or 16 bits are needed.",
            "Convert it to an 8-bit RGB image.",
        )
    grey = (values.astype(np.int32) >> 8).astype(np.uint8)
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return Image.fromarray(255 - grey if white_is_zero else grey)
