"""What every room needs of the machine: the device, the stages of a run and their cost."""
