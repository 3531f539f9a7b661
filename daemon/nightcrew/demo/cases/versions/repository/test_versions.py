import unittest

from versions import newest, parts, satisfies


class Versions(unittest.TestCase):
    def test_as_many_parts_as_written(self):
        self.assertEqual(len(parts(" 1.2.3 ")), 3)

    def test_small_numbers(self):
        self.assertEqual(newest(["1.2", "1.4", "0.9"]), "1.4")

    def test_ten_is_newer_than_nine(self):
        self.assertEqual(newest(["1.9", "1.10", "1.2"]), "1.10")

    def test_a_newer_version_satisfies(self):
        self.assertTrue(satisfies("2.0.1", "2.0"))
        self.assertTrue(satisfies("10.0", "9.5"))


if __name__ == "__main__":
    unittest.main()
