"""How any run is carried out."""
