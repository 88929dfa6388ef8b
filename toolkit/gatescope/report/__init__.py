"""Records as pages: self-contained HTML that opens offline, with a table behind every figure.

    scan_page(record)   what one record says: findings, figures, every variable, provenance

Every number comes from the record.
"""

from gatescope.report.scanned import scan_page, variable_frame

__all__ = ["scan_page", "variable_frame"]
