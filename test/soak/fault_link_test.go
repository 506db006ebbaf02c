//go:build linux

package soak

func linkProgram([]string) error { return nil }
