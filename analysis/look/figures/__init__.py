"""How is a look drawn? Figures from views."""
