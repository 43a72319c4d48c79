"""How are predictions served? The contract at the door (`door`), then the model over HTTP (`app`)."""
