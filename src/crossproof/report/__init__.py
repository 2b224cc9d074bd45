"""One HTML page about the runs of a comparison."""

from crossproof.report.page import write_report
from crossproof.report.run import report_run

__all__ = ["report_run", "write_report"]
