"""TIFF through tifffile: the samples of the first page as they are stored, or a reason why they cannot be read.

The lists below name all that is decoded; anything else is `unsupported` rather than guessed.
"""

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nelbo.data.decoder.samples import Samples, Space
from nelbo.data.decoder.tags import check_directory, listed_tags
from nelbo.data.errors import ImageError

if TYPE_CHECKING:
    from tifffile import TiffPage

# Tags; their numbers are those of TIFF 6.0.
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _ORIENTATION = 254, 258, 259, 262, 266, 274
_COLOR_MAP, _SUB_IFDS, _INK_SET, _DOT_RANGE, _COEFFICIENTS, _REFERENCE, _DNG = 320, 330, 332, 336, 529, 532, 50706
#: Tags without which pixels would be misread: width, height, place and layout of the samples.
_DECIDING = frozenset(
    {256, 257, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, 273, _ORIENTATION, 277, 278, 279, 284, 317}
    | {_COLOR_MAP, 322, 323, 324, 325, _INK_SET, _DOT_RANGE, 338, 339, 347, _COEFFICIENTS, 530, _REFERENCE}
)

_NONE, _JPEG = 1, 7
_FAX = (2, 3, 4)
#: LZW, Deflate (two numbers), PackBits, LZMA, Zstandard (two numbers): bytes to bytes.
_PACK_BITS = 32773
_BYTES = (5, 8, 32946, _PACK_BITS, 34925, 34926, 50000)
#: LERC, PNG, JPEG 2000, JPEG XR, WebP (two numbers), JPEG XL: image codecs, which know the type of their samples.
_JPEG_2000 = 34712
_IMAGES = (34887, 34933, _JPEG_2000, 34934, 34927, 50001, 50002)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_SPACES: dict[int, Space] = {
    _WHITE_IS_ZERO: "inverted",
    _BLACK_IS_ZERO: "grey",
    _RGB: "rgb",
    _PALETTE: "palette",
    _SEPARATED: "cmyk",
    _YCBCR: "ycbcr",
}
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3}
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
#: Each reader unpacks integers of 17 to 31 bits in another order.
_SAMPLES = {
    _UNSIGNED: (*range(1, 17), 32, 64),
    _UNDEFINED: (*range(1, 17), 32, 64),
    _SIGNED: (8, 16, 32, 64),
    _FLOAT: (16, 32, 64),
}
_WHOLE_BYTES = (8, 16, 32, 64)
_PREMULTIPLIED, _ALPHA = 1, 2
#: Pillow's words for the modes that it knows, by number of colours, number of alpha channels and type.
_MODES = {
    (1, 0, "u8"): "L",
    (1, 1, "u8"): "LA",
    (1, 0, "u16"): "I;16",
    (1, 0, "i32"): "I",
    (1, 0, "f32"): "F",
    (3, 0, "u8"): "RGB",
    (3, 1, "u8"): "RGBA",
    (4, 0, "u8"): "CMYK",
}


class Layout(NamedTuple):
    """What a page says of its picture before any sample is decoded.

    mode: Pillow's word if it has one, else the channels and the type of the samples, as in ``RGB;u16``.
    width_px, height_px: of the stored array.
    """

    mode: str
    width_px: int
    height_px: int


def read_layout(content: bytes) -> Layout:
    """Mode and size, without decoding a sample.

    Raises:
        ImageError: the directory is not whole, or the picture is of a kind that is not decoded here.
    """
    page = _page(content)
    _check_layout(page, content)
    n_colours, is_alpha = _COLOURS[_photometric(page)], _alpha(page) is not None
    kind = "f" if page.sampleformat == _FLOAT else "i" if page.sampleformat == _SIGNED else "u"
    sample = f"{kind}{page.bitspersample}"
    if _photometric(page) == _PALETTE:
        mode = "P"
    elif (n_colours, page.bitspersample, kind) == (1, 1, "u"):
        mode = "1"
    elif _photometric(page) == _YCBCR and page.compression != _JPEG:
        mode = "YCbCr"
    else:
        name = ("L", "RGB", "CMYK")[(1, 3, 4).index(n_colours)] + "A" * is_alpha
        mode = _MODES.get((n_colours, int(is_alpha), sample), f"{name};{sample}")
    return Layout(mode, page.imagewidth, page.imagelength)


def read_samples(content: bytes) -> Samples:
    """All samples of the first page.

    Raises:
        ImageError: ``truncated`` where the data end early, ``unsupported`` where they are not decoded here, else
            ``unreadable``.
    """
    page = _page(content)
    _check_layout(page, content)
    _check_data(page, content)
    values = _decoded(page, content)
    if values.dtype == bool:
        values = values.view(np.uint8)
    photometric, alpha = _photometric(page), _alpha(page)
    n_colours = _COLOURS[photometric]
    return Samples(
        values[..., 0] if n_colours == 1 else values[..., :n_colours],
        # The JPEG codec has converted YCbCr to RGB.
        "rgb" if page.compression == _JPEG and photometric == _YCBCR else _SPACES[photometric],
        page.bitspersample,
        None if alpha is None else values[..., alpha],
        alpha is not None and page.extrasamples[alpha - n_colours] == _PREMULTIPLIED,
        int(page.tags.valueof(_ORIENTATION, 1)),
        np.asarray(page.colormap, np.uint16) if photometric == _PALETTE else None,
    )


def _page(content: bytes) -> "TiffPage":
    from tifffile import TiffFile, TiffPage

    check_directory(content, _DECIDING)
    try:
        page = TiffFile(io.BytesIO(content)).pages.first
    except Exception as error:
        # Hostile bytes make a parser raise nearly anything.
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from error
    if not isinstance(page, TiffPage):
        raise ImageError("unreadable", "TIFF has no page of its own")
    missing = listed_tags(content) & _DECIDING - {tag.code for tag in page.tags}
    if missing:
        raise ImageError("unreadable", f"TIFF tags {sorted(missing)} are damaged")
    return page


def _check_layout(page: "TiffPage", content: bytes) -> None:
    """Check that the page is of a kind that is decoded here."""
    tags, photometric = page.tags, _photometric(page)
    # Nikon and Sony store a small preview first, and the picture in a directory of its own.
    is_preview = _SUB_IFDS in tags and tags.valueof(_SUBFILE) == 1
    if is_preview or _DNG in tags or content[8:10] == b"CR":
        raise ImageError("unsupported", "camera raw is not decoded")
    if page.compression not in (_NONE, _JPEG, *_FAX, *_BYTES, *_IMAGES):
        raise ImageError("unsupported", f"TIFF compression {page.compression} is not decoded")
    if photometric not in _COLOURS:
        raise ImageError("unsupported", f"TIFF colours of photometric interpretation {photometric} are not converted")
    if page.bitspersample not in _SAMPLES.get(int(page.sampleformat), ()):
        raise ImageError("unsupported", f"TIFF samples of {page.bitspersample} bits ({page.sampleformat}) are not read")
    _check_codec(page)
    _check_colours(page)
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise ImageError("unsupported", "TIFF volumes are not pictures")
    _check_predictor(page)


def _check_codec(page: "TiffPage") -> None:
    """Refuse combinations that some writers are known to get wrong, or to understand in another way."""
    bits, is_swapped = page.bitspersample, page.parent.byteorder == ">"
    # Codecs of images and packed bits have a byte order of their own.
    if (is_swapped and bits > 8 and (page.compression in _IMAGES or bits not in _WHOLE_BYTES)) or (
        page.compression == _JPEG_2000 and bits > 16
    ):
        order = "big-endian " * is_swapped
        raise ImageError("unsupported", f"{order}TIFF with compression {page.compression} of {bits} bits is not read")
    if bits == 1 and page.samplesperpixel > 1 and page.planarconfig == 1:
        raise ImageError("unsupported", "TIFF with several channels of one bit side by side is not read")


def _check_colours(page: "TiffPage") -> None:
    photometric, bits = _photometric(page), page.bitspersample
    n_colours = _COLOURS[photometric]
    is_unsigned = page.sampleformat in (_UNSIGNED, _UNDEFINED)
    white = 2**bits - 1
    if page.samplesperpixel < n_colours:
        raise ImageError("unreadable", f"TIFF has {page.samplesperpixel} of {n_colours} colours")
    extra = page.samplesperpixel - n_colours
    # A channel without a meaning is padding beside RGB; beside grey it may be a second picture.
    is_padding = extra == 1 and photometric == _RGB
    if extra and _alpha(page) is None and not is_padding:
        raise ImageError("unsupported", f"TIFF has {extra} channels without a meaning besides its colours")
    if extra and photometric in (_PALETTE, _YCBCR):
        raise ImageError("unsupported", "TIFF palettes and YCbCr with further channels are not converted")
    if photometric in (_PALETTE, _SEPARATED) and not is_unsigned:
        raise ImageError("unsupported", "TIFF palettes and inks of signed numbers or floats are not converted")
    if photometric == _PALETTE and (bits > 16 or page.colormap is None or page.colormap.shape != (3, 2**bits)):
        raise ImageError("unreadable", "TIFF has no palette for its indices")
    if photometric == _SEPARATED:
        if page.tags.valueof(_INK_SET, 1) != 1:
            raise ImageError("unsupported", "TIFF inks are not cyan, magenta, yellow and black")
        dots = page.tags.valueof(_DOT_RANGE)
        if dots is not None and (set(dots[::2]) != {0} or set(dots[1::2]) != {white}):
            raise ImageError("unsupported", f"TIFF inks have the range {dots}")
    if photometric == _YCBCR:
        _check_ycbcr(page)


def _check_ycbcr(page: "TiffPage") -> None:
    if page.bitspersample != 8 or page.sampleformat not in (_UNSIGNED, _UNDEFINED):
        raise ImageError("unsupported", "TIFF with YCbCr of other than 8 bits is not converted")
    if page.compression == _JPEG:
        return
    numbers = (page.tags.valueof(_REFERENCE), page.tags.valueof(_COEFFICIENTS))
    usual = ((0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1), (299, 1000, 587, 1000, 114, 1000))
    is_usual = all(
        found is None or np.allclose(_fractions(found), _fractions(want))
        for found, want in zip(numbers, usual, strict=True)
    )
    if page.is_subsampled or page.compression in _IMAGES or not is_usual:
        raise ImageError("unsupported", "TIFF with YCbCr that is subsampled or of a range of its own is not converted")


def _fractions(values: Any) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64).reshape(-1, 2)
    return numbers[:, 0] / np.maximum(numbers[:, 1], 1)


def _check_predictor(page: "TiffPage") -> None:
    """Refuse predictors that readers understand in different ways."""
    predictor, bits, is_float = int(page.predictor), page.bitspersample, page.sampleformat == _FLOAT
    if predictor == 1 or page.compression == _JPEG:
        return
    known = {2: not is_float and bits in _WHOLE_BYTES, 3: is_float}
    # libtiff takes no predictor with PackBits.
    if page.compression not in _BYTES or page.compression == _PACK_BITS or not known.get(predictor, False):
        raise ImageError(
            "unsupported", f"TIFF predictor {predictor} with compression {page.compression} and {bits} bits is not read"
        )


def _photometric(page: "TiffPage") -> int:
    """What the colours mean; if the file does not say so, what libtiff takes them for."""
    if _PHOTOMETRIC in page.tags:
        return int(page.photometric)
    return _RGB if page.samplesperpixel == _COLOURS[_RGB] else _BLACK_IS_ZERO


def _alpha(page: "TiffPage") -> int | None:
    """Which channel is transparency; None where there is none."""
    n_colours = _COLOURS[_photometric(page)]
    meanings = list(page.extrasamples)[: page.samplesperpixel - n_colours]
    found = [n_colours + place for place, meaning in enumerate(meanings) if meaning in (_PREMULTIPLIED, _ALPHA)]
    return found[0] if found else None


def _check_data(page: "TiffPage", content: bytes) -> None:
    """Check that all strips or tiles are there and lie within the file."""
    n = math.prod(page.chunked)
    places = list(zip(page.dataoffsets[:n], page.databytecounts[:n], strict=False))
    if page.is_contiguous and page.compression == _NONE:
        # One piece, whose length follows from the size of the picture.
        places = [(page.dataoffsets[0], math.ceil(math.prod(page.shaped) * page.bitspersample / 8))]
    elif len(places) < n or not all(start and size for start, size in places):
        raise ImageError("truncated", f"TIFF has {sum(size > 0 for _, size in places)} of its {n} strips or tiles")
    end = max(start + size for start, size in places)
    if end > len(content):
        raise ImageError("truncated", f"TIFF has {len(content)} bytes, and strips or tiles up to byte {end}")
    if page.compression == _JPEG and not all(b"\xff\xd9" in content[a : a + size][-64:] for a, size in places):
        # The codec would fill the rest with grey.
        raise ImageError("truncated", "a JPEG strip or tile in the TIFF has no end")


def _decoded(page: "TiffPage", content: bytes) -> NDArray[Any]:
    """(h, w, samples) in the native byte order."""
    if page.dtype is None or 0 in page.shaped:
        raise ImageError("unreadable", "TIFF has no pixels")
    if page.is_contiguous and page.compression == _NONE:
        stored = np.asarray(page.asarray(squeeze=False))
        return np.moveaxis(stored[:, 0, ..., 0], 0, -1) if page.planarconfig == 2 else stored[0, 0]
    planes, _, height, width, samples = page.shaped
    # Planes become channels: one of the two numbers is 1.
    result = np.zeros((height, width, planes * samples), page.dtype)
    for index in range(math.prod(page.chunked)):
        start, size = page.dataoffsets[index], page.databytecounts[index]
        piece, (plane, _, row, column, _), _ = _segment(page, content[start : start + size], index)
        piece = piece[0, : height - row, : width - column]
        channels = slice(plane, plane + 1) if planes > 1 else slice(None)
        result[row : row + piece.shape[0], column : column + piece.shape[1], channels] = piece
    return result


def _segment(page: "TiffPage", data: bytes, index: int) -> Any:
    from tifffile import TiffFileError

    options = {}
    if page.compression == _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    try:
        found = page.decode(data, index, **options)
    except TiffFileError as error:
        # Less came out than the strip or tile has room for.
        raise ImageError("truncated", str(error)) from error
    except (ImportError, NotImplementedError) as error:
        raise ImageError("unsupported", str(error)) from error
    # Bilevel pages of faxes come as bytes.
    is_bit = page.compression in _FAX and page.bitspersample == 1
    if found[0] is None or (found[0].dtype.newbyteorder("=") != page.dtype and not is_bit):
        raise ImageError("unsupported", f"TIFF says {page.dtype}, and its codec something else")
    return found
