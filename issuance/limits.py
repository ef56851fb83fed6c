"""The ledger of the CAs' limits: reserve before ordering, wait where an order would be refused."""
