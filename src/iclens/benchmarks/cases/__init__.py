"""The cases of `iclens bench`: one file each, found by its decorator."""
