"""topocell: differentiable architecture search in which the topology of a cell is learned."""
