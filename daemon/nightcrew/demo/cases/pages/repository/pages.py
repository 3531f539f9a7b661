"""Cut long lists into pages."""


def page_count(items: int, size: int) -> int:
    """How many pages it takes to show `items` things, `size` on a page; the last page may be shorter."""
    if size < 1:
        raise ValueError("a page holds at least one thing")
    return items // size + 1


def page(things: list, number: int, size: int) -> list:
    """What stands on page `number`; the first page is number 1."""
    start = (number - 1) * size
    return things[start : start + size]


def pages(things: list, size: int) -> list:
    """All pages in order."""
    return [page(things, number, size) for number in range(1, page_count(len(things), size) + 1)]
