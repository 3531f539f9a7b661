"""The repository context: small, sorted, and a function of the commit alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nightcrew.agent.context import tree


def test_a_small_tree_is_listed_whole_and_sorted() -> None:
    assert tree(["b/x.py", "a.py"]) == "a.py\nb/x.py"


def test_a_large_tree_shows_its_folders_with_their_sizes() -> None:
    files = [f"pkg/sub{folder}/file{number}.py" for folder in range(5) for number in range(200)] + ["README.md"]
    text = tree(files, limit=200)
    assert "pkg/sub0/ (200 files)" in text
    assert "README.md" in text
    assert len(text) <= 200


def test_a_flat_folder_of_thousands_is_cut_and_counted() -> None:
    text = tree([f"file{number}.txt" for number in range(5000)], limit=500)
    assert text.endswith("(5000 files in all)")
    assert len(text) < 560


@given(st.lists(st.text(alphabet="ab/", min_size=1, max_size=12), max_size=60), st.randoms())
def test_the_order_in_which_files_are_given_does_not_matter(files: list[str], random) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)
    assert tree(files, limit=100) == tree(shuffled, limit=100)
