import unittest

from bookings import busy_hours, is_free, merge


class Merge(unittest.TestCase):
    def test_apart(self):
        self.assertEqual(merge([(13, 14), (9, 10)]), [(9, 10), (13, 14)])

    def test_overlapping(self):
        self.assertEqual(merge([(9, 11), (10, 12)]), [(9, 12)])

    def test_touching(self):
        self.assertEqual(merge([(9, 10), (10, 12)]), [(9, 12)])

    def test_one_within_the_other(self):
        self.assertEqual(merge([(9, 17), (10, 12)]), [(9, 17)])


class Room(unittest.TestCase):
    def test_hours_count_once(self):
        self.assertEqual(busy_hours([(9, 12), (10, 11), (14, 15)]), 4)

    def test_free_before_after_and_not_between(self):
        taken = [(9, 12)]
        self.assertEqual([is_free(taken, 8, 9), is_free(taken, 12, 13), is_free(taken, 10, 11)], [True, True, False])


if __name__ == "__main__":
    unittest.main()
