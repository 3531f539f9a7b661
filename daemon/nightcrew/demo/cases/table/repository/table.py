"""Text tables."""


def widths(rows: list) -> list:
    """The width of each column: that of its longest cell."""
    return [max(len(cell) for cell in column) for column in zip(*rows)]


def line(cells: list, columns: list, gap: int = 1) -> str:
    """One row, cells padded to the width of their column, without blanks at the end.

    Columns are two blanks apart unless `gap` says otherwise.
    """
    padded = [cell.ljust(width) for cell, width in zip(cells, columns)]
    return (" " * gap).join(padded).rstrip()


def table(rows: list) -> str:
    """All rows below each other."""
    columns = widths(rows)
    return "\n".join(line(row, columns) for row in rows)
