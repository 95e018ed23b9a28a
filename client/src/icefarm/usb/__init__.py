"""USB devices of elsewhere: by Linux' virtual host controller, or a local USB/IP server."""
