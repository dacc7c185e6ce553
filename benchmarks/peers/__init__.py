"""nelbo beside other detectors that people would choose."""
