"""One HTML page about the runs of a comparison."""

from crossproof.report.page import write_report
from crossproof.report.run import refresh_reports, report_run

__all__ = ["refresh_reports", "report_run", "write_report"]
