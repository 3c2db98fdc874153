"""How the shipped model and exam were made; not part of an installation."""
