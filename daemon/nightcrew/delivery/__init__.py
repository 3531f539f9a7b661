"""What comes out of a task: a report for people, one for programs, and the patch."""

from nightcrew.delivery.results import as_after, report_json, result_paths, tells, write_results

__all__ = ["as_after", "report_json", "result_paths", "tells", "write_results"]
