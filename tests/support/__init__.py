"""What tests share: a real PostgreSQL server, processes that end with the test, a clock that is told the time."""
