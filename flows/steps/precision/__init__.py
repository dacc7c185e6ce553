"""Steps of ``train --precision``: a second fit in 8 bits, and whether it is used."""
