"""What several workers and their supervisor share: their channel, and the rules by which many become one."""
