"""Control: who holds which board. Requests in, Postgres in the middle, assignments out."""
