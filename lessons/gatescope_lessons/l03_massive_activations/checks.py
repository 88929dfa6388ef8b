"""Checks of lesson 03. Each knows the mistakes people make and names them."""
