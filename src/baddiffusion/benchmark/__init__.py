"""The benchmark: which defense finds or removes which backdoor of the zoo, at what cost."""
