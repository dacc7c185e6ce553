"""Beside what people would pick instead."""
