"""Rows as a pandas data frame, which needs pandas only where one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.errors import UserError


def data_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Make a pandas data frame of rows.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UserError("to_pandas needs the package pandas: `pip install 'iclens[pandas]'` brings it.") from None
    return pd.DataFrame(rows)
