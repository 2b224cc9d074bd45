"""One HTML page about the runs of a comparison."""

from crossproof.report.page import write_report
from crossproof.report.run import refresh_report, report_run

__all__ = ["refresh_report", "report_run", "write_report"]
