"""What every room shares: durations, monitors, the state protocol, changes that last one `fit`."""
