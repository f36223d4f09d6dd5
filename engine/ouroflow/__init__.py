"""ouroflow: money that goes round, measured and proven."""
