"""What the tests share: a recorder of the wire, processes of a farm, waiting for conditions."""
