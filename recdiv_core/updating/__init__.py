"""A day's update: new data, a new candidate, the gate. It uses all rooms below and adds none."""
