import unittest

from interest import earned, growth


class Growth(unittest.TestCase):
    def test_one_year(self):
        self.assertAlmostEqual(growth(100, 0.05, 1), 105)

    def test_interest_bears_interest(self):
        self.assertAlmostEqual(growth(100, 0.1, 2), 121)

    def test_no_time_no_growth(self):
        self.assertEqual(growth(100, 0.1, 0), 100)


class Earned(unittest.TestCase):
    def test_the_interest_of_three_years(self):
        self.assertEqual(earned(1000, 0.02, 3), 61.21)

    def test_debts_earn_nothing(self):
        with self.assertRaises(ValueError):
            earned(-100, 0.02, 1)


if __name__ == "__main__":
    unittest.main()
