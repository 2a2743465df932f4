"""A page that says which answers to accept, why, and what could not be concluded.

``make_report`` needs matplotlib (extra ``plot``).
"""

from adue_sklearn.report._page import make_report

__all__ = ["make_report"]
