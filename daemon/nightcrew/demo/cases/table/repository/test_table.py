import unittest

from table import line, table, widths


class Table(unittest.TestCase):
    def test_a_column_is_as_wide_as_its_longest_cell(self):
        self.assertEqual(widths([["a", "bb"], ["ccc", "d"]]), [3, 2])

    def test_the_gap_can_be_chosen(self):
        self.assertEqual(line(["a", "b"], [2, 1], gap=3), "a    b")

    def test_no_blanks_at_the_end(self):
        self.assertEqual(line(["a", ""], [1, 5], gap=1), "a")

    def test_columns_are_two_blanks_apart(self):
        self.assertEqual(table([["name", "age"], ["Al", "7"]]), "name  age\nAl    7")


if __name__ == "__main__":
    unittest.main()
