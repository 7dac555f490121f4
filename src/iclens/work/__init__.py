"""Long work: files written whole, finished pieces kept, progress shown."""

from iclens.work.parts import Parts
from iclens.work.progress import bar, duration, stages
from iclens.work.whole_files import check_new_folder, check_writable, make_folder, whole_folder, write_atomically

__all__ = [
    "Parts",
    "bar",
    "check_new_folder",
    "check_writable",
    "duration",
    "make_folder",
    "stages",
    "whole_folder",
    "write_atomically",
]
