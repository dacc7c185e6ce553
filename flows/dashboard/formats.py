"""Numbers as people read them."""

import math


def number(value: float | None, digits: int = 4) -> str:
    """With thousands separators; a dash where there is none.

    >>> number(1234567), number(12.34567), number(None), number(1e-7)
    ('1,234,567', '12.35', '—', '1e-07')
    >>> number(-12345.6)
    '-12,346'
    """
    if value is None or math.isnan(value):
        return "—"
    is_whole = float(value).is_integer() or abs(value) >= 10**digits
    return f"{value:,.0f}" if is_whole else f"{value:,.{digits}g}"


def percent(share: float | None, digits: int = 3) -> str:
    """A share of one.

    >>> percent(0.0512), percent(None)
    ('5.12 %', '—')
    """
    return "—" if share is None or math.isnan(share) else f"{100 * share:.{digits}g} %"


def images(n: float) -> str:
    """So many images.

    >>> images(1), images(2500)
    ('1 image', '2,500 images')
    """
    return f"{number(n)} image{'' if n == 1 else 's'}"
