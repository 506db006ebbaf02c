// Probe checks from within Windows, or Wine, what drvsock needs of AF_UNIX there,
// and prints a line "ok NAME" or "FAIL NAME: WHY" for each check. Its exit status
// is 1 if any failed. On Windows itself all of them hold, too.
//
// "probe dial PATH" connects to the socket PATH and prints what it says; "probe
// bind PATH" binds a socket to PATH, removes it and prints the error's number.
package main
