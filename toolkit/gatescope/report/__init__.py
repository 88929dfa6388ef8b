"""Records as pages: self-contained HTML that opens offline, with a table behind every figure.

    scan_page(record)   what one record says: findings, figures, every variable, provenance
    compare_page(pair)  how two records differ: findings, every variable, figures of the largest effects

Every number comes from the record.
"""

from gatescope.report.compared import compare_page
from gatescope.report.scanned import scan_page, variable_frame

__all__ = ["compare_page", "scan_page", "variable_frame"]
