import unittest

from interest import growth, years_until


class Growth(unittest.TestCase):
    def test_one_year(self):
        self.assertAlmostEqual(growth(100, 0.05, 1), 105)

    def test_interest_bears_interest(self):
        self.assertAlmostEqual(growth(100, 0.1, 2), 121)

    def test_no_time_no_growth(self):
        self.assertEqual(growth(100, 0.1, 0), 100)


class YearsUntil(unittest.TestCase):
    def test_doubling_takes_eight_years_at_ten_percent(self):
        self.assertEqual(years_until(100, 200, 0.1), 8)

    def test_without_interest_it_never_grows(self):
        with self.assertRaises(ValueError):
            years_until(100, 200, 0)


if __name__ == "__main__":
    unittest.main()
