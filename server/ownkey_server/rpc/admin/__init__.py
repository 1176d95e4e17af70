"""AdminService: one room for each kind of thing that is administered."""
