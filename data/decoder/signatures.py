"""Tells pictures in formats that are not decoded here from files that are not pictures."""

#: Offsets and bytes by which such formats are recognised.
_UNSUPPORTED = (
    (0, b"\0\0\0\x0cjP  "),  # JPEG 2000
    (0, b"\xff\x4f\xff\x51"),  # its bare code stream
    (0, b"\xff\x0a"),  # JPEG XL
    (0, b"\0\0\0\x0cJXL "),
    (4, b"ftyp"),  # HEIF, AVIF without its codec, Canon CR3, MP4, QuickTime
    (0, b"8BPS"),  # Photoshop
    (0, b"gimp xcf"),
    (0, b"\0\0\1\0"),  # icon
    (0, b"\x76\x2f\x31\x01"),  # OpenEXR
    (0, b"#?RADIANCE"),
    (0, b"DDS "),
    (0, b"qoif"),
    (0, b"SIMPLE  ="),  # FITS
    (128, b"DICM"),
    (0, b"%PDF-"),
    (0, b"%!PS"),
    (0, b"FUJIFILMCCD-RAW"),
    (0, b"IIU\0"),  # Panasonic
    (0, b"IIRO"),  # Olympus
    (6, b"HEAPCCDR"),  # Canon CRW
    (0, b"FOVb"),  # Sigma
    (8, b"AVI "),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"\0\0\1\xba"),  # MPEG
    (0, b"FLV\1"),
)

_SUPPORTED = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def reason_of(content: bytes) -> str:
    """Why a file that no decoder took cannot be read.

    >>> reason_of(b"%PDF-1.7"), reason_of(b"GIF89a"), reason_of(b"<html>")
    ('unsupported', 'unreadable', 'not_an_image')
    """
    if any(content[start : start + len(mark)] == mark for start, mark in _UNSUPPORTED):
        return "unsupported"
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return "unreadable" if is_webp or content.startswith(_SUPPORTED) else "not_an_image"
