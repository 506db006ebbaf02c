// Package house holds the rules of this source tree as tests: format, vet and
// staticcheck for each system, documented names, wording of errors, length of
// files. It has no code of its own.
//
// The checks that run compilers are left out by go test -short.
package house
