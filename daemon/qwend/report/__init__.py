"""A recipe's report as one HTML page, as Markdown, as JSON. Pure: from the data of `/v1/recipes/NAME/report` to text.

The page needs nothing else: styles and pictures stand in it, it runs no script and asks no network.
"""

from __future__ import annotations

from qwend.report.markdown import markdown
from qwend.report.page import page

__all__ = ["markdown", "page"]
