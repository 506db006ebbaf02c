package standin

// Main returns at once unless this process is one that [Spawn] started; then it
// serves and exits. It belongs at the top of main and of TestMain. On systems
// other than Linux it does nothing, there being nothing to serve.
func Main() { becomeServer() }
