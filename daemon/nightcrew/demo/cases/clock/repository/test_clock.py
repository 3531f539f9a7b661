import unittest

from clock import between, later


class Later(unittest.TestCase):
    def test_within_the_hour(self):
        self.assertEqual(later("09:05", 20), "09:25")

    def test_into_the_next_hour(self):
        self.assertEqual(later("09:50", 75), "11:05")

    def test_past_midnight(self):
        self.assertEqual(later("23:30", 45), "00:15")

    def test_long_past_midnight(self):
        self.assertEqual(later("22:00", 300), "03:00")


class Between(unittest.TestCase):
    def test_on_one_day(self):
        self.assertEqual(between("09:00", "10:30"), 90)

    def test_over_night(self):
        self.assertEqual(between("22:00", "06:00"), 480)


if __name__ == "__main__":
    unittest.main()
