"""Training of networks, backdoored ones among them."""
