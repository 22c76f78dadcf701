"""From a declared table to Iceberg: schema, partitioning, sort order, properties, evolution."""

from collections.abc import Iterator
from functools import cache
from typing import Final

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError, ValidationError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.sorting import NullOrder, SortField, SortOrder
from pyiceberg.transforms import IdentityTransform, parse_transform
from pyiceberg.types import (
    BooleanType,
    DateType,
    DoubleType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from dataplatform.lake.spec import NAMESPACE, Column, ColumnType, TableSpec

AUDIT_BRANCH: Final = "audit"

_SCALARS: Final[dict[ColumnType, IcebergType]] = {
    "string": StringType(),
    "int": IntegerType(),
    "bigint": LongType(),
    "double": DoubleType(),
    "boolean": BooleanType(),
    "date": DateType(),
    "timestamp": TimestamptzType(),
}

_PROPERTIES: Final = {
    "format-version": "2",
    # A change costs the changed rows, not the files they lie in; compaction pays off the rest.
    "write.merge.mode": "merge-on-read",
    "write.update.mode": "merge-on-read",
    "write.delete.mode": "merge-on-read",
    "write.merge.isolation-level": "snapshot",
    "write.distribution-mode": "none",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "50",
    "history.expire.min-snapshots-to-keep": "5",
}


class SchemaChangeError(ValueError):
    """A declared change that Iceberg can't make in place."""


def identifier(name: str) -> str:
    """Return the table's name with its namespace."""
    return f"{NAMESPACE}.{name}"


def iceberg_schema(columns: tuple[Column, ...]) -> Schema:
    """Return the Iceberg schema of the declared columns, documentation included.

    Columns are optional in Iceberg even where declared required: the audit enforces it, and a
    required column could not be added to a table later.
    """
    ids = iter(range(1, 10_000))
    return Schema(*[_nested(column, ids) for column in columns])


def _nested(column: Column, ids: Iterator[int]) -> NestedField:
    field_id = next(ids)
    if column.type == "array<string>":
        kind: IcebergType = ListType(next(ids), StringType(), element_required=False)
    else:
        kind = _SCALARS[column.type]
    return NestedField(field_id, column.name, kind, required=False, doc=column.documentation)


def partition_spec(spec: TableSpec, schema: Schema) -> PartitionSpec:
    """Return the Iceberg partition spec of transforms such as `month(day)`."""
    fields = []
    for number, text in enumerate(spec.partitioning, start=1000):
        transform, _, rest = text.partition("(")
        column = rest.rstrip(")") or transform
        parsed = parse_transform(transform) if rest else IdentityTransform()
        source = schema.find_field(column).field_id
        name = f"{column}_{transform}" if rest else column
        fields.append(PartitionField(source, number, parsed, name))
    return PartitionSpec(*fields)


def sort_order(spec: TableSpec, schema: Schema) -> SortOrder:
    """Return the Iceberg sort order: ascending, nulls first."""
    return SortOrder(
        *[
            SortField(
                schema.find_field(name).field_id,
                transform=IdentityTransform(),
                null_order=NullOrder.NULLS_FIRST,
            )
            for name in spec.sort_order
        ]
    )


@cache
def _properties(spec: TableSpec) -> dict[str, str]:
    return _PROPERTIES | {"comment": spec.description}


def ensure_table(catalog: Catalog, spec: TableSpec) -> Table:
    """Create the table, or bring schema, partitioning and properties up to what is declared.

    Raises:
        SchemaChangeError: a type change that would lose data.
    """
    try:
        table = catalog.load_table(identifier(spec.name))
    except NoSuchTableError:
        schema = iceberg_schema(spec.columns)
        return catalog.create_table_if_not_exists(
            identifier(spec.name),
            schema,
            partition_spec=partition_spec(spec, schema),
            sort_order=sort_order(spec, schema),
            properties=_properties(spec),
        )
    _evolve(table, spec)
    return table


def load_table(catalog: Catalog, name: str) -> Table | None:
    """Return the table, or None while it is not built."""
    try:
        return catalog.load_table(identifier(name))
    except NoSuchTableError:
        return None


def _evolve(table: Table, spec: TableSpec) -> None:
    declared = iceberg_schema(spec.columns)
    if _shape(declared) != _shape(table.schema()):
        try:
            with table.update_schema() as update:
                update.union_by_name(declared)
        except (ValueError, ValidationError) as error:
            raise SchemaChangeError(
                f"{spec.name}: the declared schema can't be reached from the live one: {error}."
                " Iceberg widens int to bigint and adds columns; anything else needs a new column."
            ) from error
    _repartition(table, spec)
    wanted = _properties(spec)
    if any(
        table.properties.get(name) != value
        for name, value in wanted.items()
        if name != "format-version"
    ):
        with table.transaction() as transaction:
            transaction.set_properties({k: v for k, v in wanted.items() if k != "format-version"})


def _repartition(table: Table, spec: TableSpec) -> None:
    """Partition what is written from now on as declared; files that are there stay as they are."""
    declared = {f.name: f for f in partition_spec(spec, table.schema()).fields}
    live = {f.name for f in table.spec().fields}
    if declared.keys() == live:
        return
    with table.update_spec() as update:
        for name in sorted(live - declared.keys()):
            update.remove_field(name)
        for name, added in declared.items():
            if name not in live:
                column = table.schema().find_field(added.source_id).name
                update.add_field(column, added.transform, name)


def _shape(schema: Schema) -> dict[str, tuple[str, str | None]]:
    return {f.name: (str(f.field_type).split("<")[0], f.doc) for f in schema.fields}
