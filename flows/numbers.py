"""Numbers formatted for people, with a true minus sign; templates call each function by its name."""

import math

from nelbo.detectors import Interval


def number(value: float | None, digits: int = 4) -> str:
    r"""A number with thousands separators; a dash for None and NaN.

    >>> number(1234567), number(12.34567), number(None), number(1e-7)
    ('1,234,567', '12.35', '—', '1e-07')
    >>> ascii(number(-12345.6))
    "'\\u221212,346'"
    """
    if value is None or math.isnan(value):
        return "—"
    is_whole = float(value).is_integer() or abs(value) >= 10**digits
    return fixed(value) if is_whole else _shown(value, f"{digits}g")


def fixed(value: float | None, decimals: int = 0) -> str:
    """A number with thousands separators and so many decimals; a dash for None.

    >>> fixed(1234.56, 1), fixed(0.5, 3), fixed(None)
    ('1,234.6', '0.500', '—')
    """
    return "—" if value is None else _shown(value, f"{decimals}f")


def percent(share: float | None, digits: int = 3) -> str:
    """A share between 0 and 1 in percent; a dash for None and NaN.

    >>> percent(0.0512), percent(None)
    ('5.12 %', '—')
    """
    return "—" if share is None or math.isnan(share) else f"{number(100 * share, digits)} %"


def interval(found: Interval, decimals: int = 2) -> str:
    """A value and its interval.

    >>> interval(Interval(0.756, 0.704, 0.81))
    '0.76 [0.70, 0.81]'
    """
    return f"{fixed(found.value, decimals)} [{fixed(found.low, decimals)}, {fixed(found.high, decimals)}]"


def images(n: float) -> str:
    """A number of images, in words.

    >>> images(1), images(2500)
    ('1 image', '2,500 images')
    """
    return f"{number(n)} image{'' if n == 1 else 's'}"


def _shown(value: float, form: str) -> str:
    # A minus sign instead of a hyphen; an exponent keeps its hyphen.
    return ("\u2212" if value < 0 else "") + f"{abs(value):,.{form}}"
