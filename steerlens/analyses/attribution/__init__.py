"""What carries a gain: later heads and MLPs, to first order and held one by one."""
