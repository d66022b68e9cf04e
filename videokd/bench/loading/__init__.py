"""`videokd data bench`: how fast clips come from files, beside other toolkits and bare decoders."""
