"""Workers for other people's engines; they run in an environment of their own."""
