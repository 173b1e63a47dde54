"""Many runs shared among processes: claimed one by one, each done once, taken up again after an interruption."""
