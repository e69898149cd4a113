"""The front of :mod:`cowstore.bench` in a checkout, and the results this project keeps of itself."""
