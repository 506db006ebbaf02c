package cygwin

import "golang.org/x/sys/windows"

// system reports whether the file bears the SYSTEM attribute, or can't be asked.
func system(path string) bool {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return true
	}
	a, err := windows.GetFileAttributes(name)
	return err != nil || a&windows.FILE_ATTRIBUTE_SYSTEM != 0
}
