"""What a connector's author and our own tests share: the conformance suite and launchers of real servers."""
