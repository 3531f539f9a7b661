import unittest

from pages import page, page_count, pages


class PageCount(unittest.TestCase):
    def test_a_shorter_last_page_counts(self):
        self.assertEqual(page_count(11, 5), 3)

    def test_a_full_last_page_is_the_last(self):
        self.assertEqual(page_count(10, 5), 2)

    def test_nothing_takes_no_page(self):
        self.assertEqual(page_count(0, 5), 0)

    def test_a_page_must_hold_something(self):
        with self.assertRaises(ValueError):
            page_count(3, 0)


class Pages(unittest.TestCase):
    def test_the_first_page_is_number_one(self):
        self.assertEqual(page(["a", "b", "c"], 1, 2), ["a", "b"])

    def test_all_pages(self):
        self.assertEqual(pages(["a", "b", "c"], 2), [["a", "b"], ["c"]])
        self.assertEqual(pages(["a", "b", "c", "d"], 2), [["a", "b"], ["c", "d"]])


if __name__ == "__main__":
    unittest.main()
