import unittest

from accounts import Bank, Overdrawn


class Transfers(unittest.TestCase):
    def setUp(self):
        self.bank = Bank()
        self.bank.deposit("ann", 500)
        self.bank.deposit("bob", 100)

    def test_a_transfer_moves_money(self):
        self.bank.transfer("ann", "bob", 200)
        self.assertEqual(self.bank.balances, {"ann": 300, "bob": 300})

    def test_a_transfer_opens_a_new_account(self):
        self.bank.transfer("ann", "eve", 500)
        self.assertEqual(self.bank.balances["eve"], 500)

    def test_no_money_is_lost(self):
        self.bank.transfer("bob", "ann", 100)
        self.assertEqual(self.bank.total(), 600)

    def test_an_account_cannot_be_overdrawn(self):
        with self.assertRaises(Overdrawn):
            self.bank.transfer("bob", "ann", 101)
        self.assertEqual(self.bank.balances["bob"], 100)


if __name__ == "__main__":
    unittest.main()
