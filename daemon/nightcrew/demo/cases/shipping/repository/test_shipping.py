import unittest

from shipping import shipping, weight_class


class Shipping(unittest.TestCase):
    def test_a_small_order_pays(self):
        self.assertEqual(shipping(20), 4.9)

    def test_a_large_order_is_free(self):
        self.assertEqual(shipping(80), 0)

    def test_exactly_the_limit_is_free(self):
        self.assertEqual(shipping(50), 0)

    def test_express_is_never_free(self):
        self.assertEqual(shipping(80, express=True), 9.5)


class WeightClass(unittest.TestCase):
    def test_limits_belong_to_the_lighter_class(self):
        self.assertEqual([weight_class(0.5), weight_class(30), weight_class(31)], ["letter", "parcel", "freight"])


if __name__ == "__main__":
    unittest.main()
