"""The operators' queue: many models, one record for each, and nothing is scanned twice. Nothing here imports torch."""

from baddiffusion.scan_queue.asking import Asked, Limits, read_duration, read_size
from baddiffusion.scan_queue.contents import folder_digest
from baddiffusion.scan_queue.forecast import Forecast, forecast
from baddiffusion.scan_queue.listing import Entry, place_of, read_folder, read_list
from baddiffusion.scan_queue.queue import Progress, Row, read_rows, run_queue
from baddiffusion.scan_queue.summary import summarize, write_summary

__all__ = [
    "Asked",
    "Entry",
    "Forecast",
    "Limits",
    "Progress",
    "Row",
    "folder_digest",
    "forecast",
    "place_of",
    "read_duration",
    "read_folder",
    "read_list",
    "read_rows",
    "read_size",
    "run_queue",
    "summarize",
    "write_summary",
]
