"""The network of a cell: trained, tested, kept."""
