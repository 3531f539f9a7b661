import unittest

from settings import patience, retries, timeout


class Settings(unittest.TestCase):
    def test_what_is_set_counts(self):
        self.assertEqual(retries({"retries": "5"}), 5)
        self.assertEqual(timeout({"timeout": 2.5}), 2.5)

    def test_no_retries_can_be_set(self):
        self.assertEqual(retries({"retries": 0}), 0)

    def test_a_timeout_is_never_too_short(self):
        self.assertEqual(timeout({"timeout": 0}), 1)

    def test_three_retries_when_nothing_is_set(self):
        self.assertEqual(retries({}), 3)

    def test_patience_is_for_all_tries_together(self):
        self.assertEqual(patience({"timeout": 10, "retries": 1}), 20)
        self.assertEqual(patience({}), 120)


if __name__ == "__main__":
    unittest.main()
