"""The one partitions definition that all partitioned assets share.

`dagster asset materialize --select '*' --partition DAY` works on a selection that mixes partitioned
and unpartitioned assets only while the partitioned ones share one definition.
"""

from typing import Final

from dagster import DailyPartitionsDefinition

DAILY: Final = DailyPartitionsDefinition(start_date="2024-01-01", timezone="UTC")
"""Days that are over: the newest partition is yesterday (UTC)."""
