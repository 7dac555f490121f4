"""A file that is not what was written is one clear error, or a note and a repair; never another number, never a crash.

Files that we write carry a checksum: whatever is read from them is what was written. Files that people write do not:
there a changed digit is another wish, and only what cannot be meant is an error.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
from tests.faults.damage import spoilers
from tests.faults.formats import FORMATS

from iclens.errors import UserError

PICKLED = Path("/tmp/iclens-a-pickle-was-run")


def check(name, number, seed, most_foreign, tmp_path, counts):
    form = FORMATS[name]
    sound = tmp_path / "sound"
    sound.mkdir()
    form.make(sound)
    content = (sound / form.file).read_bytes()
    kept = tmp_path / "kept"
    shutil.copytree(sound, kept)
    expected = form.read(kept)
    assert expected
    for place, (damage, spoil) in enumerate(spoilers(content, number, seed, most_foreign)):
        folder = tmp_path / f"case-{place}"
        shutil.copytree(sound, folder, symlinks=True)
        spoil(folder / form.file)
        counts["damaged files"] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = form.read(folder)
        except UserError:
            continue
        except Exception as error:
            raise AssertionError((name, damage, f"{type(error).__name__}: {str(error)[:300]}")) from error
        if form.sealed:
            changed = {entry for entry, value in found.items() if value != expected.get(entry)}
            counts["lost or changed"] += len(changed)
            assert not changed, (name, damage, changed)
        shutil.rmtree(folder)
    assert not PICKLED.exists()


QUICK = [name for name, form in FORMATS.items() if not form.slow]


@pytest.mark.parametrize("name", QUICK)
def test_a_damaged_file_is_one_clear_error_or_the_same_value(name, tmp_path, counts):
    check(name, 6, 1, 3, tmp_path, counts)


@pytest.mark.faults
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name, tmp_path, counts):
    # Every slow case loads a model.
    number, most_foreign = (18, 8) if FORMATS[name].slow else (60, None)
    check(name, number, 2, most_foreign, tmp_path, counts)
