/** Loaded into the program before it begins: it has the memory of a small container. Node asks the system for its limit, which a test may not set. */
process.constrainedMemory = () => 270 * 1024 * 1024
